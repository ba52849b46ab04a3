"""Kernels run on memory that holds anything, beside convolutions without TF32."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what a launcher allocates with NaN, or the largest integer: nobody may read it.

    ``torch.use_deterministic_algorithms`` would fill it too, but runs other forms.
    """
    for owner, name in ((torch, 'empty'), (torch, 'empty_like'), (Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare modules with recorded ones in float32: cuDNN takes TF32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def _poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(allocate)
    def filled(*args, **kwargs) -> Tensor:
        tensor = allocate(*args, **kwargs)
        value: float = True
        if tensor.dtype != torch.bool:
            floating = tensor.dtype.is_floating_point
            value = float('nan') if floating else torch.iinfo(tensor.dtype).max
        tensor.detach().fill_(value)  # the tensor itself may require its gradient
        return tensor

    return filled
