"""Floating-point operations: formulas for mtp's operators, and a counter for whole steps.

An exponential counts as one operation. :func:`count` adds these formulas to those of torch for
matrix products, convolutions and attention; elementwise operations are not counted.
"""

import copy
import importlib.util
from collections.abc import Callable, Sequence
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
Shape = Sequence[int]  # of a tensor; a formula gets it in the place of the tensor


def rotated_window_work(windows: int, size: int, channels: int) -> Work:
    """Return the work of rotated window attention.

    Args:
        windows: number of windows, over all images and heads.
        size: side of a window in tokens.
        channels: channels of a head.
    """
    keys = size**2
    return (
        windows * keys * channels * (4 * keys + 4 * size + 16),
        windows * keys * channels * (10 * keys + 8 * size + 48),
    )


def relative_position_work(queries: int, height: int, width: int, channels: int) -> Work:
    """Return the work of full attention with decomposed relative positions.

    Args:
        queries: number of queries, over all images and heads.
        height: height of the grid, tokens.
        width: width of the grid, tokens.
        channels: channels of a head.
    """
    terms = queries * channels * (2 * height * width + height + width)
    return 2 * terms, 5 * terms


def dcnv3_work(taps: int, channels: int) -> Work:
    """Return the work of DCNv3.

    Args:
        taps: number of sampled points, over all images, positions and groups.
        channels: channels of a group.
    """
    return 8 * channels * taps, 16 * channels * taps


def roi_align_work(samples: int, channels: int) -> Work:
    """Return the work of RoIAlign, rotated or not.

    Args:
        samples: number of bilinear samples, over all RoIs.
        channels: channels of the feature map.
    """
    return 8 * samples * channels, 8 * samples * channels


def count(call: Callable[[], Any]) -> float:
    """Count the operations of a call.

    Code under ``torch.compile`` runs uncompiled here, since compiled code bypasses torch's
    dispatcher.
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

    The step runs on copies of the model and the batch whose tensors have shapes but no values.
    Recomputation (``with_cp``) is not counted, since it does not advance the training.

    Args:
        model: model in training mode, without a wrapper; left unchanged.
        batch: batch of the training loader.

    Raises:
        Exception: the step depends on values, as in the detectors of the libraries.
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

        # Fake tensors cannot be sent, pinned or used with cuDNN; random states stay unchanged.
        with (
            patch.object(torch.distributed, 'is_initialized', lambda: False),
            patch.object(torch.Tensor, 'pin_memory', lambda tensor: tensor),
            torch.backends.cudnn.flags(enabled=False),
            torch.random.fork_rng(),
        ):
            return count(step)


def matrix_rate(device: torch.device, side: int = 8192) -> float:
    """Measure the operations per second of bfloat16 products of ``side`` x ``side`` matrices."""
    # A separate generator leaves the random draws of the next step unchanged.
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
    grad: Shape,
    x: Shape,
    weight: Shape,
    bias: Shape | None,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    transposed: bool,
    output_padding: Shape,
    groups: int,
    output_mask: Sequence[bool],
    **_: object,
) -> float:
    # torch 2.11 counts the weight gradient of a grouped convolution as if it had one group
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
    return bins * (ratio if ratio > 0 else 2) ** 2  # adaptive: about two samples per bin and axis


def _register_torchvision() -> None:
    import torchvision  # noqa: F401  (registers the operators)

    @register_flop_formula(torch.ops.torchvision.roi_align)
    def forward(
        image: Shape,
        rois: Shape,
        scale: float,
        height: int,
        width: int,
        ratio: int,
        *_: object,
        **__: object,
    ) -> float:
        return roi_align_work(rois[0] * _samples(height * width, ratio), image[1])[0]

    @register_flop_formula(torch.ops.torchvision._roi_align_backward)
    def backward(
        grad: Shape,
        rois: Shape,
        scale: float,
        height: int,
        width: int,
        batch: int,
        channels: int,
        h: int,
        w: int,
        ratio: int,
        *_: object,
        **__: object,
    ) -> float:
        return roi_align_work(rois[0] * _samples(height * width, ratio), channels)[1]


def _register_kernels() -> None:
    from mtp.ops.triton import (  # noqa: F401
        deform_conv,
        relative_position,
        roi_align_rotated,
        rotated_window,
        window_operands,
    )

    @register_flop_formula(torch.ops.mtp.rotated_window_attention)
    def window(
        qkv: Shape,
        offsets: Shape,
        scales: Shape,
        angles: Shape,
        rel_pos_h: Shape,
        *_: object,
        **__: object,
    ) -> float:
        return _window_work(qkv, angles, rel_pos_h)[0]

    @register_flop_formula(torch.ops.mtp.rotated_window_attention_backward)
    def window_backward(
        qkv: Shape,
        offsets: Shape,
        scales: Shape,
        angles: Shape,
        rel_pos_h: Shape,
        *_: object,
        **__: object,
    ) -> float:
        return _window_work(qkv, angles, rel_pos_h)[1]

    @register_flop_formula(torch.ops.mtp.window_operands)
    def operands(*args: Any, **__: object) -> float:
        return _operands_work(*args)[0]

    @register_flop_formula(torch.ops.mtp.window_operands_backward)
    def operands_backward(*args: Any, **__: object) -> float:
        return _operands_work(*args)[1]

    @register_flop_formula(torch.ops.mtp.relative_position_attention)
    def attention(qkv: Shape, rel_pos_h: Shape, rel_pos_w: Shape, **_: object) -> float:
        return _attention_work(qkv, rel_pos_h, rel_pos_w)[0]

    @register_flop_formula(torch.ops.mtp.relative_position_attention_backward)
    def attention_backward(
        qkv: Shape, rel_pos_h: Shape, rel_pos_w: Shape, *_: object, **__: object
    ) -> float:
        return _attention_work(qkv, rel_pos_h, rel_pos_w)[1]

    @register_flop_formula(torch.ops.mtp.dcnv3)
    def dcnv3(
        input: Shape,
        offset: Shape,
        mask: Shape,
        kernel: int,
        stride: int,
        pad: int,
        dilation: int,
        group: int,
        *_: object,
        **__: object,
    ) -> float:
        return dcnv3_work(prod(mask), input[3] // group)[0]

    @register_flop_formula(torch.ops.mtp.dcnv3_backward)
    def dcnv3_backward(
        grad: Shape,
        input: Shape,
        offset: Shape,
        mask: Shape,
        kernel: int,
        stride: int,
        pad: int,
        dilation: int,
        group: int,
        *_: object,
        **__: object,
    ) -> float:
        return dcnv3_work(prod(mask), input[3] // group)[1]

    @register_flop_formula(torch.ops.mtp.roi_align_rotated)
    def rois(
        features: Shape,
        rois: Shape,
        height: int,
        width: int,
        scale: float,
        ratio: int,
        *_: object,
        **__: object,
    ) -> float:
        return roi_align_work(rois[0] * _samples(height * width, ratio), features[1])[0]

    @register_flop_formula(torch.ops.mtp.roi_align_rotated_backward)
    def rois_backward(
        grad: Shape,
        rois: Shape,
        shape: Sequence[int],
        scale: float,
        ratio: int,
        *_: object,
        **__: object,
    ) -> float:
        return roi_align_work(rois[0] * _samples(prod(grad[2:]), ratio), grad[1])[1]


def _window_work(qkv: Shape, angles: Shape, rel_pos_h: Shape) -> Work:
    return rotated_window_work(prod(angles), (rel_pos_h[0] + 1) // 2, qkv[5])


def _attention_work(qkv: Shape, rel_pos_h: Shape, rel_pos_w: Shape) -> Work:
    batch, tokens, _, heads, channels = qkv
    height, width = (rel_pos_h[0] + 1) // 2, (rel_pos_w[0] + 1) // 2
    return relative_position_work(batch * tokens * heads, height, width, channels)


def _operands_work(
    x: Shape,
    height: int,
    width: int,
    size: int,
    offset_weight: Shape,
    _offset_bias: Shape,
    scale_weight: Shape,
    _scale_bias: Shape,
    angle_weight: Shape,
    *_: Shape,
) -> Work:
    weights = prod(offset_weight) + prod(scale_weight) + prod(angle_weight)
    forward = 2 * x[0] * -(-height // size) * -(-width // size) * weights
    return forward, 2 * forward


_register_torchvision()
if importlib.util.find_spec('triton'):
    _register_kernels()
