"""How the loop runs: optimiser groups, hooks, launching."""
from mtp import compat
from mtp.engine.check_datasets import CheckDatasetsHook
from mtp.engine.layer_decay import LayerDecayOptimWrapperConstructor

compat.load_checkpoints_safely()

__all__ = ['CheckDatasetsHook', 'LayerDecayOptimWrapperConstructor']
