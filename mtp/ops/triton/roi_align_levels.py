"""RoIAlign from the levels of a pyramid, forward and backward: one launch per level.

The kernels are those of :mod:`mtp.ops.triton.roi_align_rotated`. There, programs whose RoI belongs
to another level end after some 100 instructions, without a sample or a store.
"""

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
    """Launch the kernel of :func:`mtp.ops.roi_align_levels` on checked tensors, level by level."""
    output = _fake(features, rois, levels, height, width).zero_()
    levels = levels.contiguous()
    for level, (features_l, scale) in enumerate(zip(features, scales)):
        kernels.launch_forward(
            features_l, rois, output, scale, sampling_ratio, ALIGNED, CLOCKWISE, levels, level
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
@else_twin(torch.channels_last, atomics=True)
def roi_align_levels_backward(
    grad_output: Tensor,
    rois: Tensor,
    levels: Tensor,
    images: int,
    sizes: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int,
) -> list[Tensor]:
    """Return the gradients of the feature maps ``(images, C, H, W)``, channels-last.

    Args:
        sizes: H and W of each level in turn, ``[H_0, W_0, H_1, W_1, ...]``, pixels.
    """
    grad_output, levels = grad_output.contiguous(), levels.contiguous()
    return [
        kernels.launch_backward(
            grad_output, rois, shape, scale, sampling_ratio, ALIGNED, CLOCKWISE, levels, level
        ).to(grad_output.dtype)
        for level, (shape, scale) in enumerate(zip(_shapes(grad_output, images, sizes), scales))
    ]


@roi_align_levels_backward.register_fake
def _backward_fake(
    grad_output: Tensor, rois: Tensor, levels: Tensor, images: int, sizes: Sequence[int], *_: Any
) -> list[Tensor]:
    return [
        grad_output.new_empty(shape).to(memory_format=torch.channels_last)
        for shape in _shapes(grad_output, images, sizes)
    ]


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
    return grads, *(None for _ in range(6))


roi_align_levels.register_autograd(_gradients, setup_context=_save)


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that the launches above can pick."""
    for rotated in (False, True):
        yield from kernels.cases({'ROTATED': rotated})
