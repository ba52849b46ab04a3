"""Levels of a feature pyramid side by side on one map, which a head convolves in one launch."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
        """Copy levels ``(B, C, h, w)`` to one map ``(B, C, height, width)``, channels-last.

        Compiled, this is one launch, since it adds padded maps instead of writing to parts of one.
        """
        padded = [
            F.pad(
                level.permute(0, 2, 3, 1),
                (0, 0, left, self.width - left - width, top, self.height - top - height),
            )
            for (top, left, height, width), level in zip(self.places, levels)
        ]
        return functools.reduce(torch.add, padded).permute(0, 3, 1, 2)

    def cut(self, pasted: Tensor) -> list[Tensor]:
        """Return each level's part of a map ``(..., height, width)`` as a view."""
        return [
            pasted[..., top : top + height, left : left + width]
            for top, left, height, width in self.places
        ]


class Paste(torch.autograd.Function):
    """:meth:`Canvas.paste`, the gradients of which are views of the map's gradient."""

    @staticmethod
    def forward(ctx: Any, canvas: Canvas, paste: Callable[..., Tensor], *levels: Tensor) -> Tensor:
        ctx.canvas = canvas
        return paste(canvas, levels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.canvas.cut(grad)
