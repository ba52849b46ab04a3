"""The training loop and its parts: optimiser groups, hooks, processes."""

from mtp import compat
from mtp.engine.adamw import FusedAdamW
from mtp.engine.ema import FastEMA
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
from mtp.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mtp.engine.loops import AccumulatingEpochLoop, AccumulatingIterLoop
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.engine.parallel import ReplicatedModel, ShardedModel
from mtp.engine.runner import Runner
from mtp.models.weights.safe_loading import load_from_elsewhere, load_from_local, load_from_web

compat.load_checkpoints_safely(load_from_local, load_from_web, load_from_elsewhere)

__all__ = [
    'AccumulatingEpochLoop',
    'AccumulatingIterLoop',
    'BadUpdatesError',
    'BadUpdatesHook',
    'CheckDataHook',
    'CheckDatasetsHook',
    'CaptureHook',
    'CompileHook',
    'DeferredLogHook',
    'DrawPredictionsHook',
    'ExportEncoderHook',
    'FastEMA',
    'FusedAdamW',
    'LayerDecayOptimWrapperConstructor',
    'MixedPrecisionOptimWrapper',
    'PreemptionHook',
    'ProgressBarsHook',
    'RehearsalHook',
    'ReplicatedModel',
    'ReplacedSamplesError',
    'ReplacedSamplesHook',
    'ReportHook',
    'Runner',
    'SeedIterationHook',
    'ShardedModel',
    'TaskLossLogProcessor',
    'ThroughputHook',
    'TimeLimitHook',
    'TraceHook',
    'VerifiedCheckpointHook',
]
