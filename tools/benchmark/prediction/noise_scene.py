"""Scenes of noise."""

from pathlib import Path

import numpy as np
import rasterio

LAYOUTS = dict(tiled=dict(tiled=True), striped=dict(tiled=False))


def make_scene(path: Path, side: int, layout: str) -> None:
    """Write a GeoTIFF of three bands of noise, strip by strip.

    Args:
        path: file to write.
        side: height and width in pixels.
        layout: key of :data:`LAYOUTS`.
    """
    profile = dict(dtype='uint8', crs='EPSG:32632', photometric='RGB', compress='deflate', zlevel=1)
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
    noise = np.random.default_rng(0)
    with rasterio.open(
        path, 'w', 'GTiff', side, side, 3, transform=transform, **profile, **LAYOUTS[layout]
    ) as file:
        for top in range(0, side, 512):
            rows = min(512, side - top)
            pixels = noise.integers(0, 99, (3, rows, side), np.uint8)
            file.write(pixels, window=rasterio.windows.Window(0, top, side, rows))
