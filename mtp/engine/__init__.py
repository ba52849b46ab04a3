"""How the loop runs: optimiser groups, hooks, launching."""
from mtp import compat
from mtp.engine.check_datasets import CheckDatasetsHook
from mtp.engine.compilation import CompileHook
from mtp.engine.ema import FastEMA
from mtp.engine.hooks import ExportEncoderHook, SeedIterationHook
from mtp.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mtp.engine.logging import DeferredLogHook, TaskLossLogProcessor
from mtp.engine.loops import AccumulatingEpochLoop, AccumulatingIterLoop
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.engine.parallel import ReplicatedModel, ShardedModel
from mtp.engine.rehearsal import RehearsalHook
from mtp.engine.runner import Runner
from mtp.engine.throughput import ThroughputHook, TraceHook
from mtp.engine.visualization_hook import DrawPredictionsHook
from mtp.models.checkpoints import load_safely

compat.load_checkpoints_safely(load_safely)

__all__ = [
    'AccumulatingEpochLoop', 'AccumulatingIterLoop', 'CheckDatasetsHook', 'CompileHook',
    'DeferredLogHook', 'DrawPredictionsHook', 'ExportEncoderHook', 'FastEMA',
    'LayerDecayOptimWrapperConstructor', 'MixedPrecisionOptimWrapper', 'RehearsalHook',
    'ReplicatedModel', 'Runner', 'SeedIterationHook', 'ShardedModel', 'TaskLossLogProcessor',
    'ThroughputHook', 'TraceHook',
]
