"""Logits of overlapping tiles, blended to those of a scene, a part at a time."""

from collections.abc import Callable

import numpy as np

from mtp.prediction.tile_grid import Tiles, weights


class Blend:
    """Sum of the logits of tiles, of which no more is kept than further tiles can change.

    Tiles come row by row, from the left; some may be missing. Columns that the row's further tiles
    do not reach are finished at once: above the next row they are complete, and below it they are
    kept for that row. So what is kept is a tile, and the overlap of two rows across the scene.

    Args:
        tiles: tiles of the scene.
        channels: number of classes K.
        kind: ``'cosine'``: weighted mean, with weights that fall to the edges of a tile; or
            ``'centre'``: each pixel is from the tile whose edge is farthest.
        finish: what is made of complete logits ``(K, h, w)``, NaN where no tile lies: an array
            whose last two axes are the same.
    """

    def __init__(
        self,
        tiles: Tiles,
        channels: int,
        kind: str,
        finish: Callable[[np.ndarray], np.ndarray] = np.copy,
    ) -> None:
        self.tiles, self.channels, self.kind, self.finish = tiles, channels, kind, finish
        tops, (height, _), width = tiles.tops, tiles.shape, tiles.size[1]
        shared = max((above + height - below for above, below in zip(tops, tops[1:])), default=0)
        # Sums of the rows above, for the first rows of this one; the last channel is the sum of
        # the weights, or the distance to the nearest edge.
        self.kept = np.zeros((channels + 1, shared, width), np.float32)
        self.number_kept = 0
        self.start_row(0)

    def start_row(self, row: int) -> None:
        """Begin a row of tiles, after :meth:`finish_row` of the one above."""
        self.row, self.column = row, 0
        self.window = self._empty(0)
        self.done: list[np.ndarray] = []

    def add(self, left: int, logits: np.ndarray) -> None:
        """Add the logits of a tile of the row.

        Args:
            left: left edge of the tile in the scene, pixels.
            logits: ``(K, h, w)``, float32.
        """
        tiles = self.tiles
        height, width = tiles.shape
        self._advance(left)
        self._widen(width)
        down = weights(tiles.tops, height, tiles.tops[self.row], self.kind)
        across = weights(tiles.lefts, width, left, self.kind)
        if self.kind == 'centre':
            distance = np.minimum(down[:, None], across[None])
            farther = distance > self.window[-1]
            self.window[:-1, farther] = logits[:, farther]
            self.window[-1][farther] = distance[farther]
        else:
            weight = down[:, None] * across[None]
            self.window[:-1] += logits * weight
            self.window[-1] += weight

    def finish_row(self) -> np.ndarray:
        """Return what ``finish`` made of the rows that no further tile changes, all columns."""
        self._advance(self.tiles.size[1])
        self.number_kept = self.tiles.shape[0] - self._ready
        return np.concatenate(self.done, -1)

    @property
    def _ready(self) -> int:
        """Number of rows that are complete after this row of tiles."""
        tops = self.tiles.tops
        last = self.row == len(tops) - 1
        return self.tiles.shape[0] if last else tops[self.row + 1] - tops[self.row]

    def _empty(self, width: int) -> np.ndarray:
        return np.zeros((self.channels + 1, self.tiles.shape[0], width), np.float32)

    def _widen(self, width: int) -> None:
        """Let the window reach so many columns from the first unfinished one on."""
        begin = self.column + self.window.shape[2]
        more = self._empty(self.column + width - begin)
        number = self.number_kept
        more[:, :number] = self.kept[:, :number, begin : self.column + width]
        self.window = np.concatenate([self.window, more], 2)

    def _advance(self, column: int) -> None:
        """Finish the columns before one."""
        while self.column < column:
            if not self.window.shape[2]:  # no tile lies here
                self._widen(min(column - self.column, self.tiles.shape[1]))
            number = min(column - self.column, self.window.shape[2])
            self._finish(self.window[:, :, :number])
            self.window = self.window[:, :, number:]
            self.column += number

    def _finish(self, part: np.ndarray) -> None:
        """Finish the first columns of the window, and keep what the next row adds to."""
        ready = self._ready
        # these columns of the row above have been taken into the window
        self.kept[:, : part.shape[1] - ready, self.column : self.column + part.shape[2]] = part[
            :, ready:
        ]
        done = part[:, :ready].copy()
        covered = done[-1] > 0
        if self.kind == 'cosine':
            np.divide(done[:-1], done[-1], out=done[:-1], where=covered)
        done[:-1, ~covered] = np.nan
        self.done.append(self.finish(done[:-1]))
