"""Box coders of mmdet and mmrotate that never make the host wait for the device.

The libraries' coders copy their means and standard deviations from the host in each call, take one
image at a time, and decode the proposals of Oriented R-CNN with OpenCV, box by box on the CPU.
These give the same numbers for tensors with any leading dimensions, and compile without a graph
break. Unsupported options of the libraries' coders raise ``ValueError``.

Boxes are (x1, y1, x2, y2), or (cx, cy, w, h, theta): pixels, and radians with positive = clockwise
on screen, w >= h, -pi/2 <= theta < pi/2 ("le90").
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_tensor
from mmrotate.models.task_modules import DeltaXYWHTRBBoxCoder, MidpointOffsetCoder
from mmrotate.structures.bbox import RotatedBoxes, norm_angle, rbox2hbox, rbox2qbox
from torch import Tensor

from mtp.registry import TASK_UTILS

_LONGEST_STEP = -math.log(16 / 1000)  # a box grows or shrinks by a factor of 62.5 at most


@TASK_UTILS.register_module()
class DeltaXYWHCoder(DeltaXYWHBBoxCoder):
    """Deltas between boxes, relative to the first one's size: mmdet's ``DeltaXYWHBBoxCoder``.

    Args:
        **kwargs: options of mmdet's coder; ``add_ctr_clamp`` is not supported.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _refuse(self, add_ctr_clamp=False)

    def encode(self, bboxes: Tensor | BaseBoxes, gt_bboxes: Tensor | BaseBoxes) -> Tensor:
        """Return deltas from boxes ``(..., 4)`` to ``gt_bboxes`` ``(..., 4)``.

        Returns:
            Tensor: float32 ``(..., 4)``.
        """
        px, py, pw, ph = _centre_and_size(get_box_tensor(bboxes).float())
        gx, gy, gw, gh = _centre_and_size(get_box_tensor(gt_bboxes).float())
        deltas = (gx - px) / pw, (gy - py) / ph, (gw / pw).log(), (gh / ph).log()
        return _normalise(deltas, self.means, self.stds)

    def decode(
        self,
        bboxes: Tensor | BaseBoxes,
        pred_bboxes: Tensor,
        max_shape: tuple[int, int] | None = None,
    ) -> Tensor | BaseBoxes:
        """Apply predicted deltas to boxes.

        Args:
            bboxes: boxes, ``(..., 4)``.
            pred_bboxes: deltas, ``(..., 4)``, or ``(..., K * 4)`` with deltas to K boxes each.
            max_shape: height and width to which boxes are clipped (if ``clip_border``), pixels.

        Returns:
            Tensor | BaseBoxes: boxes of the shape of ``pred_bboxes``; ``HorizontalBoxes`` with
            ``use_box_type``.
        """
        priors = get_box_tensor(bboxes).unsqueeze(-2)
        dx, dy, dw, dh = _denormalise(pred_bboxes, self.means, self.stds)
        px, py, pw, ph = _centre_and_size(priors)
        x, y, w, h = px + pw * dx, py + ph * dy, _grow(pw, dw), _grow(ph, dh)
        sides = [x - w * 0.5, y - h * 0.5, x + w * 0.5, y + h * 0.5]
        if self.clip_border and max_shape is not None:
            height, width = max_shape[:2]
            sides = [side.clamp(0, most) for side, most in zip(sides, (width, height) * 2)]
        decoded = torch.stack(sides, -1).flatten(-2)
        return HorizontalBoxes(decoded, clone=False) if self.use_box_type else decoded


@TASK_UTILS.register_module()
class DeltaXYWHTRCoder(DeltaXYWHTRBBoxCoder):
    """Deltas between rotated boxes, in the frame of the first: mmrotate's ``DeltaXYWHTRBBoxCoder``.

    Args:
        **kwargs: options of mmrotate's coder; ``angle_version='le90'``, ``edge_swap=True`` and
            ``proj_xy=True`` are required, ``norm_factor`` and ``add_ctr_clamp`` not supported.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _refuse(
            self,
            angle_version='le90',
            edge_swap=True,
            proj_xy=True,
            norm_factor=None,
            add_ctr_clamp=False,
        )

    def encode(self, bboxes: Tensor | RotatedBoxes, gt_bboxes: Tensor | RotatedBoxes) -> Tensor:
        """Return deltas from boxes ``(..., 5)`` to ``gt_bboxes`` ``(..., 5)``.

        Returns:
            Tensor: float32 ``(..., 5)``.
        """
        px, py, pw, ph, pt = get_box_tensor(bboxes).float().unbind(-1)
        gx, gy, gw, gh, gt = _regularize(get_box_tensor(gt_bboxes)).float().unbind(-1)
        cos, sin = pt.cos(), pt.sin()
        dx = (cos * (gx - px) + sin * (gy - py)) / pw
        dy = (-sin * (gx - px) + cos * (gy - py)) / ph
        turn = norm_angle(gt - pt, 'le90')
        other_turn = norm_angle(gt - pt + math.pi / 2, 'le90')
        nearer = turn.abs() < other_turn.abs()
        dw = (gw.where(nearer, gh) / pw).log()
        dh = (gh.where(nearer, gw) / ph).log()
        return _normalise((dx, dy, dw, dh, turn.where(nearer, other_turn)), self.means, self.stds)

    def decode(
        self,
        bboxes: Tensor | RotatedBoxes,
        pred_bboxes: Tensor,
        max_shape: tuple[int, int] | None = None,
    ) -> Tensor | RotatedBoxes:
        """Apply predicted deltas to boxes.

        Args:
            bboxes: boxes, ``(..., 5)``.
            pred_bboxes: deltas, ``(..., 5)``, or ``(..., K * 5)`` with deltas to K boxes each.
            max_shape: height and width of the image to which centres are clipped, pixels.

        Returns:
            Tensor | RotatedBoxes: boxes of the shape of ``pred_bboxes``; ``RotatedBoxes`` with
            ``use_box_type``, for deltas to one box each.
        """
        px, py, pw, ph, pt = get_box_tensor(bboxes).unsqueeze(-2).unbind(-1)
        dx, dy, dw, dh, dt = _denormalise(pred_bboxes, self.means, self.stds)
        cos, sin = pt.cos(), pt.sin()
        x = dx * pw * cos - dy * ph * sin + px
        y = dx * pw * sin + dy * ph * cos + py
        if max_shape is not None:
            x, y = x.clamp(0, max_shape[1] - 1), y.clamp(0, max_shape[0] - 1)
        boxes = torch.stack([x, y, _grow(pw, dw), _grow(ph, dh), norm_angle(pt + dt, 'le90')], -1)
        decoded = _regularize(boxes).flatten(-2)
        if self.use_box_type and decoded.shape[-1] == 5:
            return RotatedBoxes(decoded, clone=False)
        return decoded


@TASK_UTILS.register_module()
class MidpointCoder(MidpointOffsetCoder):
    """Deltas from horizontal to rotated boxes: mmrotate's ``MidpointOffsetCoder``.

    Four deltas lead to the circumscribed horizontal box; two lead from the midpoints of its top and
    right sides to the corners of the rotated box on them. Source: Xie et al., *Oriented R-CNN for
    Object Detection*.

    Args:
        **kwargs: options of mmrotate's coder; ``angle_version='le90'`` is required.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _refuse(self, angle_version='le90')

    def encode(self, bboxes: Tensor | HorizontalBoxes, gt_bboxes: Tensor | RotatedBoxes) -> Tensor:
        """Return deltas from boxes ``(..., 4)`` to ``gt_bboxes`` ``(..., 5)``.

        Returns:
            Tensor: float32 ``(..., 6)``.
        """
        gts = _regularize(get_box_tensor(gt_bboxes)).float()
        px, py, pw, ph = _centre_and_size(get_box_tensor(bboxes).float())
        gx, gy, gw, gh = _centre_and_size(rbox2hbox(gts))
        x, y = rbox2qbox(gts).unflatten(-1, (4, 2)).unbind(-1)
        # an upright box (to a tenth of a pixel) has two corners on top: the right one counts
        top = y - y.amin(-1, keepdim=True) <= 0.1
        right = x.amax(-1, keepdim=True) - x <= 0.1
        da = (x.masked_fill(~top, -math.inf).amax(-1) - gx) / gw
        db = (y.masked_fill(~right, -math.inf).amax(-1) - gy) / gh
        deltas = (gx - px) / pw, (gy - py) / ph, (gw / pw).log(), (gh / ph).log(), da, db
        return _normalise(deltas, self.means, self.stds)

    def decode(
        self,
        bboxes: Tensor | HorizontalBoxes,
        pred_bboxes: Tensor,
        max_shape: tuple[int, int] | None = None,
    ) -> Tensor | RotatedBoxes:
        """Apply predicted deltas to boxes.

        Args:
            bboxes: boxes, ``(..., 4)``.
            pred_bboxes: deltas, ``(..., 6)``.
            max_shape: unused argument that the RPN gives; as in mmrotate, boxes are not clipped.

        Returns:
            Tensor | RotatedBoxes: boxes, ``(..., 5)``; ``RotatedBoxes`` with ``use_box_type``.
        """
        dx, dy, dw, dh, da, db = (
            step.squeeze(-1) for step in _denormalise(pred_bboxes, self.means, self.stds)
        )
        px, py, pw, ph = _centre_and_size(get_box_tensor(bboxes))
        w, h = _grow(pw, dw), _grow(ph, dh)
        # The corners on the top and right sides, relative to the centre, and those opposite form a
        # parallelogram. With its shorter diagonal stretched to the longer one, it is a rectangle.
        top_x, top_y = da.clamp(-0.5, 0.5) * w, h * -0.5
        right_x, right_y = w * 0.5, db.clamp(-0.5, 0.5) * h
        top, right = torch.hypot(top_x, top_y), torch.hypot(right_x, right_y)
        longer = torch.maximum(top, right)
        top_x, top_y = top_x * (longer / top), top_y * (longer / top)
        right_x, right_y = right_x * (longer / right), right_y * (longer / right)
        # the sides of the rectangle, at a right angle to each other
        side_x, side_y = right_x - top_x, right_y - top_y
        other_x, other_y = right_x + top_x, right_y + top_y
        side, other = torch.hypot(side_x, side_y), torch.hypot(other_x, other_y)
        # direction of the first side, from the longer one: a side of length 0 has none
        angle = torch.where(
            side > other, torch.atan2(side_y, side_x), torch.atan2(other_y, other_x) - math.pi / 2
        )
        decoded = _regularize(torch.stack([px + pw * dx, py + ph * dy, side, other, angle], -1))
        return RotatedBoxes(decoded, clone=False) if self.use_box_type else decoded


def _refuse(coder: object, **supported: object) -> None:
    for name, value in supported.items():
        given = getattr(coder, name)
        if given != value:
            raise ValueError(
                f'{type(coder).__name__} supports only {name}={value!r}, got '
                f'{given!r}: use {type(coder).__mro__[1].__name__} for it'
            )


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return cx, cy, w and h of boxes (x1, y1, x2, y2), ``(..., 4)``."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1, y2 - y1


# Numbers of the host are passed one by one as arguments of a kernel; a tensor of them would need a
# copy that the host waits for.
def _normalise(deltas: Sequence[Tensor], means: Sequence[float], stds: Sequence[float]) -> Tensor:
    return torch.stack([(step - mean) / std for step, mean, std in zip(deltas, means, stds)], -1)


def _denormalise(deltas: Tensor, means: Sequence[float], stds: Sequence[float]) -> list[Tensor]:
    """Return the D denormalised columns ``(..., K)`` of deltas ``(..., K * D)``."""
    columns = deltas.unflatten(-1, (-1, len(means))).unbind(-1)
    return [step * std + mean for step, mean, std in zip(columns, means, stds)]


def _grow(size: Tensor, step: Tensor) -> Tensor:
    return size * step.clamp(-_LONGEST_STEP, _LONGEST_STEP).exp()


def _regularize(boxes: Tensor) -> Tensor:
    """Apply ``RotatedBoxes.regularize_boxes('le90')`` to boxes ``(..., 5)``."""
    x, y, w, h, angle = boxes.unbind(-1)
    angle = norm_angle(torch.where(w > h, angle, angle + math.pi / 2), 'le90')
    return torch.stack([x, y, torch.maximum(w, h), torch.minimum(w, h), angle], -1)
