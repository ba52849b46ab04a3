"""Levels of a feature pyramid side by side on one map, which a head convolves in one launch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Pixels of zeros between two levels: what a 3 x 3 convolution pads each of them with.
GAP = 1


@dataclass(frozen=True)
class Canvas:
    """Layout of levels on one map: the first, and beside it a column of the others.

    A 1 x 1 or 3 x 3 convolution gives each level's pixels what it gives them on the level alone.
    Where each level has half the side of the one before, about an eighth of the map is unused.

    Attributes:
        height: height of the map.
        width: width of the map.
        places: top, left, height and width of each level on the map.
    """

    height: int
    width: int
    places: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> 'Canvas':
        """Lay out levels of these heights and widths, the largest of which is the first."""
        (first_height, first_width), *others = sizes
        places, top = [(0, 0, first_height, first_width)], 0
        for height, width in others:
            places.append((top, first_width + GAP, height, width))
            top += height + GAP
        return cls(
            max(top + height for top, _, height, _ in places),
            max(left + width for _, left, _, width in places),
            tuple(places),
        )

    def paste(self, levels: Sequence[Tensor]) -> Tensor:
        """Copy levels ``(B, C, h, w)`` to one map ``(B, C, height, width)``, channels-last."""
        return _Paste.apply(self, *levels)

    def cut(self, pasted: Tensor) -> list[Tensor]:
        """Return each level's part of a map ``(..., height, width)`` as a view."""
        return [
            pasted[..., top : top + height, left : left + width]
            for top, left, height, width in self.places
        ]


class _Paste(torch.autograd.Function):
    """Copies to views, whose gradients are views too; autograd would copy the map for each."""

    @staticmethod
    def forward(ctx: Any, canvas: Canvas, *levels: Tensor) -> Tensor:
        ctx.canvas = canvas
        first = levels[0]
        pasted = torch.empty(
            (*first.shape[:2], canvas.height, canvas.width),
            dtype=first.dtype,
            device=first.device,
            memory_format=torch.channels_last,
        ).zero_()
        for place, level in zip(canvas.cut(pasted), levels):
            place.copy_(level)
        return pasted

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.canvas.cut(grad)
