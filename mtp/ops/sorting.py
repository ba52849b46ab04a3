"""torch's sort as an opaque operator."""

import torch
from torch import Tensor


@torch.library.custom_op('mtp::sort_rows', mutates_args=())
def sort_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row by falling value, stably; not differentiable.

    torch's compiler turns sorts of up to 512 values into kernels of its own. These take up to ten
    seconds of processor time to compile, and are slower than torch's sort.

    Args:
        x: values ``(B, N)``.

    Returns:
        tuple[Tensor, Tensor]: sorted values and their indices in the rows of ``x``, int64,
        ``(B, N)`` each.
    """
    values, index = x.contiguous().sort(dim=1, descending=True, stable=True)
    return values, index


@sort_rows.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.int64)
