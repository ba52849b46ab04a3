"""The cases of ``tools/benchmark/ops.py``: operators, sizes, implementations, counted work.

The bytes of an operator are those that any implementation must move: operands in and results out,
once each; in the backward pass operands and the gradient of the result in, and the gradients of the
operands out. The floating-point operations are those of its formula; an exponential counts as one.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from paper import plain
from torch import Tensor

from mtp import ops
from mtp.engine import flops
from mtp.ops import relative_position, rotated_window
from mtp.ops.bias_relu import bias_relu_torch
from mtp.ops.deform_conv import dcnv3_torch
from mtp.ops.focal_loss import sigmoid_focal_loss_torch
from mtp.ops.grouped_batch_norm import grouped_batch_norm_torch
from mtp.ops.resize_maps import resize_maps_torch
from mtp.ops.roi_align_rotated import roi_align_rotated_torch
from mtp.ops.rotated_boxes import box_iou_rotated_torch, kept_rotated_torch
from mtp.ops.window_operands import window_operands_torch
from operators import packages


@dataclass(frozen=True)
class Case:
    """An operator at a size.

    Attributes:
        operator: name of the function in ``mtp.ops``, or of several that belong together.
        size: label of the size.
        make: function ``(images, dtype, device)`` -> operands.
        learned: number of operands that take a gradient, counted from the first.
        images: number of images in the timed batch; 1 where the operator has no notion of images.
            Errors are those of one image.
        forms: name -> implementation, a callable of the operands. ``kernel`` is what ``mtp.ops``
            runs on a GPU, ``torch`` its twin, which is the reference in float64.
        flops: operations of forward and of backward, for the whole batch.
        low_precision: whether the operator takes bfloat16.
        other_results: names of forms that compute another operator: only their time is compared.
    """

    operator: str
    size: str
    make: Callable[[int, torch.dtype, torch.device], list[Tensor]]
    learned: int
    forms: dict[str, Callable[..., Tensor]]
    flops: tuple[float, float]
    images: int = 1
    low_precision: bool = True
    other_results: frozenset[str] = field(default_factory=frozenset)


def cases(sizes: str) -> Iterator[Case]:
    """Yield all cases, at the ``paper``'s sizes, ``small`` ones for a CPU, or ``tiny`` ones."""
    table = SIZES[sizes]
    for make, rows in table.items():
        for row in rows:
            yield make(*row)


def window_case(
    label: str, images: int, side: int, heads: int, channels: int = 64, window: int = 7
) -> Case:
    windows = -(-side // window)
    keys = window**2

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        rand = partial(torch.randn, device=device)
        qkv = rand(images, side, side, 3, heads, channels, dtype=dtype)
        tables = rand(2, 2 * window - 1, channels) * 0.1
        return [
            qkv,
            rand(images, heads, 2, windows, windows) * 0.3,
            rand(images, heads, 2, windows, windows) * 0.2,
            rand(images, heads, windows, windows) * 0.3,
            *tables,
            rand(heads, keys, keys) * 0.1,
        ]

    return Case(
        'rotated_window_attention',
        label,
        make,
        7,
        {
            'kernel': rotated_window.rotated_window_attention,
            'torch': rotated_window.rotated_window_attention_torch,
            'plain': plain.rotated_window_attention,
        },
        flops.rotated_window_work(images * heads * windows**2, window, channels),
        images,
    )


def block_case(
    label: str, images: int, side: int, heads: int, channels: int = 64, window: int = 7
) -> Case:
    """Return what a block of the encoder computes between its two linear layers."""
    windows = -(-side // window)
    width = heads * channels

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        rand = partial(torch.randn, device=device)
        maps = [
            part
            for number in (2 * heads, 2 * heads, heads)
            for part in (rand(number, width, 1, 1) * 0.5 / width**0.5, rand(number) * 0.1)
        ]
        return [
            rand(images, side**2, width),  # LayerNorm leaves float32 under autocast
            rand(images, side, side, 3, heads, channels, dtype=dtype),
            *maps,
            rand((2 * window - 1) ** 2, heads) * 0.1,
            *(rand(2, 2 * window - 1, channels) * 0.1),
        ]

    def form(operands, attention):
        def attend(x, qkv, *parameters):
            transforms = operands(x, (side, side), window, *parameters[:7])
            return attention(qkv, *transforms[:3], *parameters[7:], transforms[3])

        return attend

    def operands_torch(x, grid, *others):
        return window_operands_torch(x, *grid, *others)

    work = flops.rotated_window_work(images * heads * windows**2, window, channels)
    maps = 10 * images * windows**2 * heads * width
    return Case(
        'rotated_window_block',
        label,
        make,
        11,
        {
            'kernel': form(ops.window_operands, rotated_window.rotated_window_attention),
            'torch': form(operands_torch, rotated_window.rotated_window_attention_torch),
            'plain': form(plain.window_operands, plain.rotated_window_attention),
        },
        (work[0] + maps, work[1] + 2 * maps),
        images,
    )


def attention_case(label: str, images: int, side: int, heads: int, channels: int = 64) -> Case:
    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        qkv = torch.randn(images, side**2, 3, heads, channels, dtype=dtype, device=device)
        tables = torch.randn(2, 2 * side - 1, channels, device=device) * 0.1
        return [qkv, *tables]

    return Case(
        'relative_position_attention',
        label,
        make,
        3,
        {
            'kernel': relative_position.relative_position_attention,
            'torch': relative_position.relative_position_attention_torch,
            'plain': plain.relative_position_attention,
        },
        flops.relative_position_work(images * heads * side**2, side, side, channels),
        images,
    )


def dcnv3_case(
    label: str, images: int, side: int, group: int, channels: int = 16, scale: float = 2.0
) -> Case:
    settings = (3, 1, 1, 1, group)

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        input = torch.randn(images, side, side, group * channels, dtype=dtype, device=device)
        # Away from whole pixels, where the gradient of an offset jumps.
        shape = images, side, side, group * 18
        offset = torch.randint(-2, 3, shape, device=device) + 0.2
        offset = ((offset + 0.6 * torch.rand(shape, device=device)) / scale).to(dtype)
        mask = torch.randn(images, side, side, group, 9, device=device).softmax(-1).flatten(3)
        return [input, offset, mask]  # softmax leaves float32 under autocast

    def twin(input, offset, mask):
        return dcnv3_torch(input, offset, mask, *settings, scale, False)

    def kernel(input, offset, mask):
        return ops.dcnv3(input, offset, mask, *settings, channels, scale)

    forms = {
        'kernel': kernel,
        'torch': twin,
        'plain': lambda *operands: plain.dcnv3(*operands, *settings, channels, scale),
    }
    if importlib.util.find_spec('DCNv3'):
        forms['DCNv3'] = lambda *operands: packages.dcnv3(*operands, group, channels, scale)
    if importlib.util.find_spec('DCNv4'):
        forms['DCNv4'] = lambda *operands: packages.dcnv4(*operands, group, channels, scale)
    return Case(
        'dcnv3',
        label,
        make,
        3,
        forms,
        flops.dcnv3_work(images * side**2 * group * 9, channels),
        images,
        other_results=frozenset(['DCNv4']),
    )


def roi_case(
    label: str, rois: int, channels: int, side: int, bins: int = 7, samples: int = 2
) -> Case:
    """Return a case on the feature map of stride 8 of two images."""

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        features = torch.randn(2, channels, side, side, dtype=dtype, device=device)
        regions = torch.rand(rois, 6, device=device)
        regions[:, 0] = (2 * regions[:, 0]).floor()
        regions[:, 1:3] *= 8 * side
        regions[:, 3:5] = 16 * 2 ** (4 * regions[:, 3:5])  # 16 to 256 pixels
        regions[:, 5] *= 6
        return [features, regions]

    forms = {
        'kernel': lambda x, r: ops.roi_align_rotated(x, r, bins, 1 / 8, samples, True, True),
        'torch': lambda x, r: roi_align_rotated_torch(x, r, bins, bins, 1 / 8, samples, True, True),
        'plain': lambda x, r: plain.roi_align_rotated(x, r, bins, 1 / 8, samples),
        'torchvision': lambda x, r: packages.upright_roi_align(x, r, bins, 1 / 8, samples),
    }
    if packages.compiled_mmcv():
        forms['mmcv'] = lambda x, r: packages.mmcv_roi_align_rotated(x, r, bins, 1 / 8, samples)
    return Case(
        'roi_align_rotated',
        label,
        make,
        1,
        forms,
        flops.roi_align_work(rois * (bins * samples) ** 2, channels),
        other_results=frozenset(['torchvision']),
    )


def boxes(number: int, device: torch.device) -> Tensor:
    """Return random boxes, each near some ten others."""
    place = torch.rand(number, 5, device=device)
    place[:, :2] *= 15 * number**0.5
    place[:, 2:4] = place[:, 2:4] * 32 + 8
    place[:, 4] = (place[:, 4] - 0.5) * torch.pi
    return place


def iou_case(label: str, first: int, second: int) -> Case:
    forms = {
        'kernel': ops.box_iou_rotated,
        'torch': lambda a, b: box_iou_rotated_torch(a, b, 'iou', False),
        'plain': plain.box_iou_rotated,
    }
    if packages.compiled_mmcv():
        forms['mmcv'] = packages.mmcv_box_iou_rotated
    pairs = first * second
    return Case(
        'box_iou_rotated',
        label,
        lambda images, dtype, device: [boxes(first, device), boxes(second, device)],
        0,
        forms,
        (280 * pairs, 0),
        low_precision=False,
    )


def nms_case(label: str, number: int, without: tuple[str, ...] = ()) -> Case:
    """Return a case; ``without`` names forms that would take minutes or an N x N matrix."""

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        return [boxes(number, device), torch.rand(number, device=device)]

    def twin(boxes: Tensor, scores: Tensor) -> Tensor:
        order = scores.sort(descending=True).indices
        return order[kept_rotated_torch(boxes[order], 0.1, None)]

    forms = {
        'kernel': lambda b, s: ops.nms_rotated(b, s, 0.1),
        'torch': twin,
        'plain': lambda b, s: plain.nms_rotated(b, s, 0.1),
        'torchvision': lambda b, s: packages.upright_nms(b, s, 0.1),
    }
    if packages.compiled_mmcv():
        forms['mmcv'] = lambda b, s: packages.mmcv_nms_rotated(b, s, 0.1)
    # operations: the test whether a pair is near, which every implementation needs
    return Case(
        'nms_rotated',
        label,
        make,
        0,
        {name: form for name, form in forms.items() if name not in without},
        (6 * number**2, 0),
        low_precision=False,
        other_results=frozenset(['torchvision']),
    )


def focal_case(label: str, rows: int, classes: int) -> Case:
    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        target = torch.randint(0, classes + 1, (rows,), device=device)
        return [torch.randn(rows, classes, dtype=dtype, device=device), target]

    forms = {
        'kernel': ops.sigmoid_focal_loss,
        'torch': lambda x, t: sigmoid_focal_loss_torch(x, t, 2.0, 0.25, None),
        'plain': lambda x, t: plain.sigmoid_focal_loss(x, t, 2.0, 0.25),
        'torchvision': packages.torchvision_focal_loss,
    }
    if packages.compiled_mmcv():
        forms['mmcv'] = packages.mmcv_focal_loss
    return Case(
        'sigmoid_focal_loss', label, make, 1, forms, (20 * rows * classes, 25 * rows * classes)
    )


def batch_norm_case(label: str, images: int, channels: int, side: int) -> Case:
    """Return a case of three groups, without ReLU: near its kink errors mean nothing."""

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        return [
            torch.randn(images, channels, side, side, dtype=dtype, device=device),
            *(torch.rand(4, channels, device=device) + 0.5),
            torch.zeros((), dtype=torch.int64, device=device),
        ]

    def form(operator: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        sizes = [len(part) for part in operands[0].chunk(3)]
        return operator(*operands, sizes, 0.1, 1e-5)

    elements = images * channels * side**2
    return Case(
        'grouped_batch_norm',
        label,
        make,
        3,
        {
            'kernel': partial(form, ops.grouped_batch_norm),
            'torch': partial(form, grouped_batch_norm_torch),
        },
        (6 * elements, 10 * elements),
        images,
    )


def resize_case(label: str, images: int, channels: int, side: int) -> Case:
    """Return a case of four levels, each with half the side of the one before."""

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        return [
            torch.randn(
                images, side // step, side // step, channels, dtype=dtype, device=device
            ).movedim(3, 1)
            for step in (1, 2, 4, 8)
        ]

    elements = images * channels * side**2
    return Case(
        'resize_maps',
        label,
        make,
        4,
        {
            'kernel': lambda *maps: ops.resize_maps(maps, (side, side)),
            'torch': lambda *maps: resize_maps_torch(maps, side, side, None),
        },
        (24 * elements, 24 * elements),
        images,
    )


def bias_relu_case(label: str, images: int, channels: int, side: int) -> Case:
    """Return a case of two maps, the second with half the side of the first."""

    def make(images: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        maps = [
            torch.randn(
                images, side // step, side // step, channels, dtype=dtype, device=device
            ).movedim(3, 1)
            for step in (1, 2)
        ]
        return [*maps, torch.randn(channels, dtype=dtype, device=device)]

    elements = images * channels * side**2 * 5 // 4
    return Case(
        'bias_relu',
        label,
        make,
        3,
        {
            'kernel': lambda first, second, bias: ops.bias_relu([first, second], bias),
            'torch': lambda first, second, bias: bias_relu_torch([first, second], bias),
        },
        (2 * elements, 2 * elements),
        images,
    )


SIZES = {
    'paper': {
        window_case: [
            ('ViT-B 448 px', 16, 28, 12),
            ('ViT-L 448 px', 16, 28, 16),
            ('ViT-B 1024 px', 2, 64, 12),
            ('ViT-L 1024 px', 2, 64, 16),
        ],
        block_case: [('ViT-B 448 px', 16, 28, 12), ('ViT-L 448 px', 16, 28, 16)],
        attention_case: [
            ('ViT-B 448 px', 16, 28, 12),
            ('ViT-L 448 px', 16, 28, 16),
            ('ViT-B 1024 px', 2, 64, 12),
            ('ViT-L 1024 px', 2, 64, 16),
        ],
        dcnv3_case: [
            ('InternImage-XL 448 px, stage 1', 16, 112, 12),
            ('InternImage-XL 448 px, stage 2', 16, 56, 24),
            ('InternImage-XL 448 px, stage 3', 16, 28, 48),
            ('InternImage-XL 448 px, stage 4', 16, 14, 96),
        ],
        roi_case: [('2000 RoIs x 256 channels, 1024 px', 2000, 256, 128)],
        iou_case: [('2000 x 100', 2000, 100)],
        nms_case: [
            ('2000', 2000),
            ('10000', 10000, ('plain',)),
            ('100000', 100000, ('plain', 'torch')),
        ],
        focal_case: [('200000 x 20', 200000, 20)],
        batch_norm_case: [('256 channels, 112 px', 48, 256, 112)],
        resize_case: [('256 channels, 112 px', 48, 256, 112)],
        bias_relu_case: [('256 channels, 112 px', 48, 256, 112)],
    },
    'small': {
        window_case: [('ViT-B 224 px', 1, 14, 12)],
        block_case: [('ViT-B 224 px', 1, 14, 12)],
        attention_case: [('ViT-B 224 px', 1, 14, 12), ('ViT-B 448 px', 1, 28, 12)],
        dcnv3_case: [('InternImage-XL 224 px, stage 2', 1, 28, 24)],
        roi_case: [('100 RoIs x 256 channels, 512 px', 100, 256, 64)],
        iou_case: [('500 x 100', 500, 100)],
        nms_case: [('500', 500), ('2000', 2000, ('plain',))],
        focal_case: [('20000 x 20', 20000, 20)],
        batch_norm_case: [('256 channels, 28 px', 6, 256, 28)],
        resize_case: [('256 channels, 28 px', 6, 256, 28)],
        bias_relu_case: [('256 channels, 28 px', 6, 256, 28)],
    },
    'tiny': {
        window_case: [('tiny', 1, 5, 2, 8, 3)],
        block_case: [('tiny', 1, 5, 2, 8, 3)],
        attention_case: [('tiny', 1, 5, 2, 16)],
        dcnv3_case: [('tiny', 1, 6, 2, 4)],
        roi_case: [('tiny', 5, 4, 16, 3)],
        iou_case: [('tiny', 20, 6)],
        nms_case: [('tiny', 50)],
        focal_case: [('tiny', 30, 4)],
        batch_norm_case: [('tiny', 3, 4, 5)],
        resize_case: [('tiny', 1, 3, 8)],
        bias_relu_case: [('tiny', 1, 3, 8)],
    },
}
