"""Mixed precision in bfloat16, on the CPU as on a GPU."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from mtp.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """``OptimWrapper`` whose forward pass runs under bfloat16 autocast.

    bfloat16 has the range of float32, so nothing scales the loss. mmengine's ``AmpOptimWrapper``
    always scales and refuses to run without an accelerator.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, besides what ``OptimWrapper`` does for gradient accumulation."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
