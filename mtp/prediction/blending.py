"""Logits of overlapping tiles, blended to those of a scene, a part at a time."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mtp.prediction.tile_grid import Tiles, weights


class Blend:
    """Sum of the logits of tiles, of which no more is kept than further tiles can change.

    Tiles come row by row, from the left; some may be missing. Columns that the row's further tiles
    do not reach are finished at once: above the next row they are complete, and below it they are
    kept for that row, in a file. So what is kept in memory is a tile, however wide the scene is.

    Args:
        tiles: tiles of the scene.
        channels: number of classes K.
        kind: ``'cosine'``: weighted mean, with weights that fall to the edges of a tile; or
            ``'centre'``: each pixel is from the tile whose edge is farthest.
        finish: what is made of complete logits ``(K, h, w)``, NaN where no tile lies: an array
            whose last two axes are the same.
        folder: folder for the file; None for the system's.
    """

    def __init__(
        self,
        tiles: Tiles,
        channels: int,
        kind: str,
        finish: Callable[[np.ndarray], np.ndarray] = np.copy,
        folder: Path | None = None,
    ) -> None:
        self.tiles, self.channels, self.kind, self.finish = tiles, channels, kind, finish
        tops, height = tiles.tops, tiles.shape[0]
        shared = max((above + height - below for above, below in zip(tops, tops[1:])), default=0)
        # Sums of the rows above, for the first rows of this one; the last channel is the sum of
        # the weights, or the distance to the nearest edge.
        self.kept = _Strip(channels + 1, shared, folder)
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
        if number := self.number_kept:
            more[:, :number] = self.kept.read(begin, self.column + width)[:, :number]
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
        if ready < part.shape[1]:
            self.kept.write(self.column, part[:, ready:])
        done = part[:, :ready].copy()
        covered = done[-1] > 0
        if self.kind == 'cosine':
            np.divide(done[:-1], done[-1], out=done[:-1], where=covered)
        done[:-1, ~covered] = np.nan
        self.done.append(self.finish(done[:-1]))


class _Strip:
    """Rows of several channels across a scene, in a file that goes when the process ends.

    Args:
        channels: number of channels.
        rows: largest number of rows.
        folder: folder for the file; None for the system's.
    """

    def __init__(self, channels: int, rows: int, folder: Path | None) -> None:
        self.shape = channels, rows
        self.file = tempfile.TemporaryFile(dir=folder)

    def write(self, column: int, values: np.ndarray) -> None:
        """Write the first rows of columns, float32 ``(channels, rows, columns)``."""
        whole = np.zeros((values.shape[2], *self.shape), np.float32)
        whole[:, :, : values.shape[1]] = np.moveaxis(values, 2, 0)
        self._go_to(column)
        self.file.write(whole.data)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return columns that are written, float32 ``(channels, rows, columns)``."""
        self._go_to(begin)
        content = self.file.read((end - begin) * self._column)
        values = np.frombuffer(content, np.float32).reshape(end - begin, *self.shape)
        return np.moveaxis(values, 0, 2)

    @property
    def _column(self) -> int:
        """Bytes of a column."""
        return 4 * self.shape[0] * self.shape[1]

    def _go_to(self, column: int) -> None:
        self.file.seek(column * self._column)
