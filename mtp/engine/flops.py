"""Floating-point operations: of mtp's operators by formula, of a whole step by counting.

An exponential counts as one operation. :func:`count` adds these formulas to torch's own, which know
matrix products, convolutions and attention; what is elementwise is not counted.
"""

import copy
import importlib.util
from collections.abc import Callable
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from mmengine.model import BaseModel
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

aten = torch.ops.aten
Work = tuple[float, float]  # forward, backward


def rotated_window_work(windows: int, size: int, channels: int) -> Work:
    """Rotated window attention in ``windows`` (of all images and heads) of ``size``^2 tokens."""
    keys = size**2
    return (
        windows * keys * channels * (4 * keys + 4 * size + 16),
        windows * keys * channels * (10 * keys + 8 * size + 48),
    )


def dcnv3_work(taps: int, channels: int) -> Work:
    """DCNv3 with ``taps`` (of all images, positions and groups) of ``channels`` channels."""
    return 8 * channels * taps, 16 * channels * taps


def roi_align_work(samples: int, channels: int) -> Work:
    """RoIAlign, rotated or not, with ``samples`` bilinear samples of ``channels`` channels."""
    return 8 * samples * channels, 8 * samples * channels


def count(call: Callable[[], Any]) -> float:
    """Operations that a call executes.

    What runs under ``torch.compile`` is counted in its eager form, since compiled code does not
    pass through torch's dispatcher.
    """
    corrected = {aten.convolution_backward: _convolution_backward}
    with (
        FlopCounterMode(display=False, custom_mapping=corrected) as counter,
        torch.compiler.set_stance('force_eager'),
    ):
        call()
    return counter.get_total_flops()


def count_training_step(model: BaseModel, batch: dict) -> float:
    """Count the operations of a training step, forward and backward, without running it.

    The step runs on copies of model and batch whose tensors have shapes and no numbers.
    Recomputation (``with_cp``) is not counted: it is no progress of the training.

    Args:
        model: a model in training mode, not wrapped; it stays as it is.
        batch: a batch of the training loader.

    Raises:
        Exception: the step needs numbers, as detectors of the libraries do.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, FakeCopyMode(mode):
        model, batch = copy.deepcopy((model, batch))
        for module in model.modules():
            if hasattr(module, 'with_cp'):
                module.with_cp = False

        def step() -> None:
            data = model.data_preprocessor(batch, True)
            loss, _ = model.parse_losses(model(**data, mode='loss'))
            parameters = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(loss, parameters, allow_unused=True)

        # Tensors without numbers are not sent, pinned, or sampled by cuDNN; nothing is drawn.
        with (
            patch.object(torch.distributed, 'is_initialized', lambda: False),
            patch.object(torch.Tensor, 'pin_memory', lambda tensor: tensor),
            torch.backends.cudnn.flags(enabled=False),
            torch.random.fork_rng(),
        ):
            return count(step)


def matrix_rate(device: torch.device, side: int = 8192) -> float:
    """Measure the operations a second of bfloat16 matrix products of ``side`` rows and columns."""
    # With numbers of its own: the step that follows draws what it would have drawn.
    a, b = torch.randn(
        2, side, side, dtype=torch.bfloat16, device=device, generator=torch.Generator(device)
    )
    a @ b  # the first call chooses a kernel
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(10):
        a @ b
    stop.record()
    stop.synchronize()
    return 10 * 2 * side**3 / (start.elapsed_time(stop) / 1e3)


def _convolution_backward(
    grad,
    x,
    weight,
    bias,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    output_mask,
    **_,
) -> float:
    # torch 2.11 counts the gradient of a grouped convolution's weight as if it had one group
    positions = x if transposed else grad
    return 2 * prod(weight) * x[0] * prod(positions[2:]) * sum(output_mask[:2])


register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)(
    lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v)
)
register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)(
    lambda grad, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(grad, q, k, v)
)
register_flop_formula(aten.grid_sampler_2d)(
    lambda image, grid, *_, out_shape, **__: 8 * prod(out_shape)
)
register_flop_formula(aten.grid_sampler_2d_backward)(lambda grad, *_, **__: 16 * prod(grad))


def _samples(bins: int, ratio: int) -> int:
    return bins * (ratio if ratio > 0 else 2) ** 2  # adaptive: about two samples a bin and axis


def _register_torchvision() -> None:
    import torchvision  # noqa: F401  (registers the operators)

    @register_flop_formula(torch.ops.torchvision.roi_align)
    def forward(image, rois, scale, height, width, ratio, aligned, *, out_shape, **_) -> float:
        return roi_align_work(rois[0] * _samples(height * width, ratio), image[1])[0]

    @register_flop_formula(torch.ops.torchvision._roi_align_backward)
    def backward(
        grad, rois, scale, height, width, batch, channels, h, w, ratio, aligned, **_
    ) -> float:
        return roi_align_work(rois[0] * _samples(height * width, ratio), channels)[1]


def _register_kernels() -> None:
    from mtp.ops.triton import deform_conv, roi_align_rotated, rotated_window  # noqa: F401

    @register_flop_formula(torch.ops.mtp.rotated_window_attention)
    def window(q, k, v, grid, rel_pos_h, *_, **__) -> float:
        return _window_work(q, grid, rel_pos_h)[0]

    @register_flop_formula(torch.ops.mtp.rotated_window_attention_backward)
    def window_backward(q, k, v, grid, rel_pos_h, *_, **__) -> float:
        return _window_work(q, grid, rel_pos_h)[1]

    @register_flop_formula(torch.ops.mtp.dcnv3)
    def dcnv3(input, offset, mask, kernel, stride, pad, dilation, group, *_, **__) -> float:
        return dcnv3_work(prod(mask), input[3] // group)[0]

    @register_flop_formula(torch.ops.mtp.dcnv3_backward)
    def dcnv3_backward(
        grad, input, offset, mask, kernel, stride, pad, dilation, group, *_, **__
    ) -> float:
        return dcnv3_work(prod(mask), input[3] // group)[1]

    @register_flop_formula(torch.ops.mtp.roi_align_rotated)
    def rois(features, rois, height, width, scale, ratio, *_, **__) -> float:
        return roi_align_work(rois[0] * _samples(height * width, ratio), features[1])[0]

    @register_flop_formula(torch.ops.mtp.roi_align_rotated_backward)
    def rois_backward(grad, rois, shape, scale, ratio, *_, **__) -> float:
        return roi_align_work(rois[0] * _samples(prod(grad[2:]), ratio), grad[1])[1]


def _window_work(q, grid, rel_pos_h) -> Work:
    size = (rel_pos_h[0] + 1) // 2
    return rotated_window_work(q[0] * q[3] * prod(grid[2:4]) // size**2, size, q[4])


_register_torchvision()
if importlib.util.find_spec('triton'):
    _register_kernels()
