"""Hooks: the actions of a run besides its training steps."""

from mtp.engine.hooks.bad_updates import BadUpdatesError, BadUpdatesHook
from mtp.engine.hooks.capture import CaptureHook
from mtp.engine.hooks.check_data import CheckDataHook
from mtp.engine.hooks.check_datasets import CheckDatasetsHook
from mtp.engine.hooks.checkpoint import VerifiedCheckpointHook
from mtp.engine.hooks.compilation import CompileHook
from mtp.engine.hooks.deferred_log import DeferredLogHook, TaskLossLogProcessor
from mtp.engine.hooks.draw_predictions import DrawPredictionsHook
from mtp.engine.hooks.export_encoder import ExportEncoderHook
from mtp.engine.hooks.preemption import PreemptionHook
from mtp.engine.hooks.progress_bars import ProgressBarsHook
from mtp.engine.hooks.rehearsal import RehearsalHook
from mtp.engine.hooks.replaced_samples import ReplacedSamplesError, ReplacedSamplesHook
from mtp.engine.hooks.seed_iteration import SeedIterationHook
from mtp.engine.hooks.throughput import ThroughputHook, TraceHook
from mtp.engine.hooks.time_limits import TimeLimitHook
from mtp.engine.hooks.write_report import ReportHook

__all__ = [
    'BadUpdatesError',
    'BadUpdatesHook',
    'CaptureHook',
    'CheckDataHook',
    'CheckDatasetsHook',
    'CompileHook',
    'DeferredLogHook',
    'DrawPredictionsHook',
    'ExportEncoderHook',
    'PreemptionHook',
    'ProgressBarsHook',
    'RehearsalHook',
    'ReplacedSamplesError',
    'ReplacedSamplesHook',
    'ReportHook',
    'SeedIterationHook',
    'TaskLossLogProcessor',
    'ThroughputHook',
    'TimeLimitHook',
    'TraceHook',
    'VerifiedCheckpointHook',
]
