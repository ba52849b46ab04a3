"""RoIAlign from the levels of a pyramid, forward and backward, all levels in one launch.

The kernels are those of :mod:`mtp.ops.triton.roi_align_rotated`. A program takes the map of its
RoI's level.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton import roi_align_rotated as kernels
from mtp.ops.triton.common import CompileCase

ALIGNED, CLOCKWISE = True, True


@torch.library.custom_op('mtp::roi_align_levels', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def roi_align_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    height: int,
    width: int,
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.roi_align_levels` on checked tensors."""
    output = _fake(features, rois, levels, height, width)
    if not len(features[0]):
        return output.zero_()
    kernels.launch_forward(
        features, rois, levels, output, scales, sampling_ratio, ALIGNED, CLOCKWISE
    )
    return output


@roi_align_levels.register_fake
def _fake(
    features: Sequence[Tensor], rois: Tensor, levels: Tensor, height: int, width: int, *_: Any
) -> Tensor:
    return features[0].new_empty(len(rois), features[0].shape[1], height, width)


@torch.library.custom_op(
    'mtp::roi_align_levels_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin(atomics=True)
def roi_align_levels_backward(
    grad_output: Tensor,
    rois: Tensor,
    levels: Tensor,
    images: int,
    sizes: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """Return the gradients of the feature maps ``(images, C, H, W)``, channels-last, in a row.

    One tensor for all levels is cleared and rounded in one launch each.

    Args:
        sizes: H and W of each level in turn, ``[H_0, W_0, H_1, W_1, ...]``, pixels.
    """
    shapes = _shapes(grad_output, images, sizes)
    return kernels.launch_backward(
        grad_output, rois, levels, shapes, scales, sampling_ratio, ALIGNED, CLOCKWISE
    ).to(grad_output.dtype)


@roi_align_levels_backward.register_fake
def _backward_fake(
    grad_output: Tensor, rois: Tensor, levels: Tensor, images: int, sizes: Sequence[int], *_: Any
) -> Tensor:
    return grad_output.new_empty(sum(map(math.prod, _shapes(grad_output, images, sizes))))


def _shapes(grad_output: Tensor, images: int, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    return [(images, grad_output.shape[1], *size) for size in zip(sizes[::2], sizes[1::2])]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    features, rois, levels, _, _, *ctx.settings = inputs
    ctx.save_for_backward(rois, levels)
    ctx.images = len(features[0])
    ctx.sizes = [side for features_l in features for side in features_l.shape[2:]]


def _gradients(ctx: Any, grad_output: Tensor) -> tuple[list[Tensor] | None, ...]:
    grads = roi_align_levels_backward(
        grad_output, *ctx.saved_tensors, ctx.images, ctx.sizes, *ctx.settings
    )
    shapes = _shapes(grad_output, ctx.images, ctx.sizes)
    return kernels.cut(grads, shapes), *(None for _ in range(6))


roi_align_levels.register_autograd(_gradients, setup_context=_save)


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that the launches above can pick."""
    for rotated in (False, True):
        yield from kernels.cases(4, {'ROTATED': rotated})
