"""Logits of overlapping tiles, blended to those of a scene, a few rows at a time."""

import numpy as np

from mtp.prediction.tile_grid import Tiles, weights


class Blend:
    """Sum of the logits of tiles, of which no more is kept than further tiles can change.

    Tiles come row by row, from the left. After a row, the scene's rows above the next one are
    complete, and :meth:`finish_row` returns them.

    Args:
        tiles: tiles of the scene.
        channels: number of classes.
        kind: ``'cosine'``: weighted mean, with weights that fall to the edges of a tile; or
            ``'centre'``: each pixel is from the tile whose edge is farthest.
    """

    def __init__(self, tiles: Tiles, channels: int, kind: str) -> None:
        self.tiles, self.channels, self.kind = tiles, channels, kind
        self.row = 0
        height, width = tiles.shape[0], tiles.size[1]
        # the last channel is the sum of the weights, or the distance to the nearest edge
        self.sums: np.ndarray = np.zeros((channels + 1, 0, width), np.float32)
        self.height = height

    def start_row(self, row: int) -> None:
        """Make room for a row of tiles below what is kept of the one above."""
        self.row = row
        more = self.height - self.sums.shape[1]
        empty = np.zeros((self.channels + 1, more, self.sums.shape[2]), np.float32)
        self.sums = np.concatenate([self.sums, empty], 1)

    def add(self, left: int, logits: np.ndarray) -> None:
        """Add the logits of a tile of the row.

        Args:
            left: left edge of the tile in the scene, pixels.
            logits: ``(K, h, w)``, float32.
        """
        tiles = self.tiles
        height, width = tiles.shape
        down = weights(tiles.tops, height, tiles.tops[self.row], self.kind)
        across = weights(tiles.lefts, width, left, self.kind)
        part = self.sums[:, :, left : left + width]
        if self.kind == 'centre':
            # pixels that one tile alone covers have a distance, too
            distance = np.minimum(down[:, None], across[None])
            farther = distance > part[-1]
            part[:-1, farther] = logits[:, farther]
            part[-1][farther] = distance[farther]
        else:
            weight = down[:, None] * across[None]
            part[:-1] += logits * weight
            part[-1] += weight

    def finish_row(self) -> np.ndarray:
        """Return the logits of the rows that no further tile changes, ``(K, rows, W)``.

        Pixels that no tile has covered are NaN.
        """
        tops = self.tiles.tops
        last = self.row == len(tops) - 1
        ready = self.sums.shape[1] if last else tops[self.row + 1] - tops[self.row]
        done, self.sums = self.sums[:, :ready], self.sums[:, ready:].copy()
        covered = done[-1] > 0
        if self.kind == 'cosine':
            np.divide(done[:-1], done[-1], out=done[:-1], where=covered)
        done[:-1, ~covered] = np.nan
        return done[:-1]
