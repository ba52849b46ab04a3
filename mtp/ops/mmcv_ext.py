"""``mmcv._ext`` without a compiler: the functions of mmcv's extension that mtp's models call.

``mmcv.ops`` imports its compiled extension as ``mmcv._ext``. If mmcv was installed without it,
:func:`find_spec` finds a module of that name whose functions fill the caller's output tensors from
:mod:`mtp.ops` and torchvision, on CPU and CUDA.

The environment variable ``MTP_OPS`` chooses the module: ``native`` requires the compiled extension,
``portable`` uses this module even if that is installed. Unset, the compiled extension is used if it
is installed.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from mtp.ops.focal_loss import sigmoid_focal_loss, sigmoid_focal_loss_derivative
from mtp.ops.roi_align import roi_align
from mtp.ops.roi_align import roi_align_backward as _roi_align_backward
from mtp.ops.roi_align_rotated import roi_align_rotated
from mtp.ops.roi_align_rotated import roi_align_rotated_backward as _roi_align_rotated_backward
from mtp.ops.rotated_boxes import box_iou_rotated as _box_iou_rotated
from mtp.ops.rotated_boxes import nms_rotated as _nms_rotated

NAME = 'mmcv._ext'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Apply horizontal NMS with torchvision, equal scores in mmcv's order."""
    from torchvision.ops import nms as tv_nms

    order = scores.sort(descending=True).indices
    boxes = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    # torchvision would sort again, with another order of ties than the compiled mmcv
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return order[tv_nms(boxes, ranks, iou_threshold)]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Compute RoIAlign into ``output``."""
    _average_only(pool_mode)
    output.copy_(
        roi_align(
            input, rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Compute the gradient of :func:`roi_align_forward` into ``grad_input``."""
    _average_only(pool_mode)
    grad_input.copy_(
        _roi_align_backward(
            grad_output, rois, grad_input.shape, spatial_scale, sampling_ratio, aligned
        )
    )


def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int = 0, aligned: bool = False
) -> None:
    """Compute rotated overlaps into ``ious``, row-major; columns after the fifth are ignored."""
    mode = ('iou', 'iof')[mode_flag]
    ious.copy_(_box_iou_rotated(boxes1[:, :5], boxes2[:, :5], mode, aligned).view_as(ious))


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Apply rotated NMS; with ``multi_label`` the sixth column of ``dets`` is the label.

    Like the compiled extension, this function ignores labels on CPU and respects them on CUDA;
    :func:`mtp.ops.nms_rotated` respects them everywhere.
    """
    respected = multi_label and dets.is_cuda
    return _nms_rotated(dets[:, :5], scores, iou_threshold, labels if respected else None)


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Compute rotated RoIAlign into ``output``."""
    output.copy_(
        roi_align_rotated(
            input,
            rois,
            (pooled_height, pooled_width),
            spatial_scale,
            sampling_ratio,
            aligned,
            clockwise,
        )
    )


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Compute the gradient of :func:`roi_align_rotated_forward` into ``grad_input``."""
    grad_input.copy_(
        _roi_align_rotated_backward(
            grad_output, rois, grad_input.shape, spatial_scale, sampling_ratio, aligned, clockwise
        )
    )


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the elementwise sigmoid focal loss into ``output``."""
    output.copy_(sigmoid_focal_loss(input, target, gamma, alpha, _given(weight)))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the derivative of each element of :func:`sigmoid_focal_loss_forward`."""
    grad_input.copy_(sigmoid_focal_loss_derivative(input, target, gamma, alpha, _given(weight)))


def reduced_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    """Compute ``mmcv.ops.sigmoid_focal_loss``, its arguments and results, by mtp's operator."""
    loss = sigmoid_focal_loss(input, target, gamma, alpha, weight)
    if reduction == 'none':
        return loss
    return loss.sum() / len(input) if reduction == 'mean' else loss.sum()


PROVIDED: dict[str, Callable] = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        box_iou_rotated,
        nms_rotated,
        roi_align_rotated_forward,
        roi_align_rotated_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}


class PortableExtension(ModuleType):
    """Substitute for the compiled module.

    A missing function raises when it is called, not when it is looked up: ``mmcv.ops`` looks up all
    functions on import.
    """

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        if name in PROVIDED:
            return PROVIDED[name]

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise NotImplementedError(
                f"mtp's portable mmcv._ext has no {name!r}; it has {', '.join(PROVIDED)}. For the "
                'others unset MTP_OPS and compile mmcv for your torch (with a CUDA toolkit): '
                'MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir '
                '--no-build-isolation onedl-mmcv'
            )

        return missing


class PortableLoader(importlib.abc.Loader):
    """Loader of the substitute module."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> PortableExtension:
        return PortableExtension(spec.name, __doc__)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is complete."""


def find_spec() -> importlib.machinery.ModuleSpec | None:
    """Return the spec of the substitute module, or None if the compiled one is to be used."""
    if choice() == 'native':
        return None
    return importlib.machinery.ModuleSpec(NAME, PortableLoader())


def choice() -> str:
    """Return the name of the extension that ``mmcv.ops`` uses: ``'native'`` or ``'portable'``.

    Raises:
        ValueError: ``MTP_OPS`` has another value.
        ImportError: ``MTP_OPS=native`` without a compiled extension, or ``portable`` after
            ``mmcv.ops`` has loaded the compiled one.
    """
    setting = os.environ.get('MTP_OPS', '')
    if setting not in ('', 'native', 'portable'):
        raise ValueError(f'MTP_OPS={setting!r}: set it to native or portable, or unset it')
    loaded = sys.modules.get(NAME)
    if isinstance(loaded, PortableExtension):
        return 'portable'
    compiled = has_compiled()
    if setting == 'native' and not compiled:
        raise ImportError(
            'MTP_OPS=native, but mmcv has no compiled extension here: install an '
            'mmcv compiled for your torch, or unset MTP_OPS'
        )
    if compiled and setting != 'portable':
        return 'native'
    if loaded is not None:
        raise ImportError(
            'MTP_OPS=portable comes too late: mmcv.ops already runs on its compiled '
            'extension. Import mtp before it'
        )
    return 'portable'


def has_compiled() -> bool:
    """Return whether a compiled ``mmcv._ext`` is installed, without importing mmcv."""
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv is None or not mmcv.submodule_search_locations:
        return False
    finder = importlib.machinery.PathFinder
    return finder.find_spec(NAME, mmcv.submodule_search_locations) is not None


def _average_only(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' needs a compiled mmcv; use pool_mode='avg'"
        )


def _given(weight: Tensor) -> Tensor | None:
    return weight if weight.numel() else None
