"""Small classification, segmentation and change-detection sets made up, as their owners pack them.

Each function writes below a folder what ``tools/data/prepare.py`` reads; everything is a function
of the seed.
"""
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mtp.data.facts.scenes import SCENES
from mtp.data.prepare.change_detection import OSCD_BANDS, OSCD_CITIES
from mtp.data.samrs.synthesis import SHAPES, Placement, _ground, _place
from mtp.files import write_text

SPLITS = ('train', 'val', 'test')
BUILDINGS = [SHAPES['court'], SHAPES['tank'], SHAPES['truck']]


def make_eurosat(root: str | Path, seed: int = 0) -> Path:
    """Ten images of 64 pixels of each class, without lists."""
    return _make_classes(Path(root), '2750', SCENES['eurosat'].classes, 10, 64, seed)


def make_resisc45(root: str | Path, seed: int = 0) -> Path:
    """Five images of 96 pixels (true: 256) of each class, without lists."""
    return _make_classes(Path(root), 'NWPU-RESISC45', SCENES['resisc45'].classes, 5, 96, seed)


def _make_classes(root: Path, top: str, classes: Sequence[str], count: int, size: int,
                  seed: int) -> Path:
    """A class is told by the colour and by the width and direction of stripes."""
    for label, name in enumerate(classes):
        rng = np.random.default_rng((seed, label))
        for number in range(1, count + 1):
            colour = cv2.cvtColor(np.uint8([[[180 * label // len(classes), 160, 150]]]),
                                  cv2.COLOR_HSV2BGR)
            y, x = np.mgrid[:size, :size] / size
            angle = np.pi * (label % 3) / 3
            wave = np.sin(2 * np.pi * (2 + label % 4 * 2)
                          * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
            image = colour + 25 * np.sign(wave)[..., None] + 0.2 * _ground(rng, size) - 20
            _write(root / top / name / f'{name}_{number}.jpg', image)
    return root


def make_loveda(root: str | Path, seed: int = 0) -> Path:
    """2, 1 and 1 images of 256 pixels (true: 1024) of each area of each split."""
    root, rng = Path(root), np.random.default_rng(seed)
    palette = np.array(((0, 0, 0), *SCENES['loveda'].palette), np.float32)[:, ::-1]
    number = 0
    for split, count in (('Train', 2), ('Val', 1), ('Test', 1)):
        for area in ('Urban', 'Rural'):
            for _ in range(count):
                centres = rng.uniform(0, 256, (24, 2))
                values = rng.permutation(np.arange(24) % 8).astype(np.uint8)
                points = np.stack(np.mgrid[:256, :256], -1)[:, :, None]
                mask = values[((points - centres)**2).sum(-1).argmin(-1)]
                image = 0.6 * palette[mask] + 0.4 * _ground(rng, 256)
                where = root / split / area
                _write(where / 'images_png' / f'{number}.png', image)
                if split != 'Test':
                    _write(where / 'masks_png' / f'{number}.png', mask)
                number += 1
    return root


def make_spacenet_v1(root: str | Path, seed: int = 0) -> Path:
    """Eight GeoTIFF of 203 x 219 pixels (true: 406 x 438) with their footprints."""
    root, rng = Path(root), np.random.default_rng(seed)
    (root / '3band').mkdir(parents=True, exist_ok=True)
    (root / 'geojson').mkdir(exist_ok=True)
    height, width, shapes = 203, 219, BUILDINGS[:2]
    for number in range(1, 9):
        image = _ground(rng, width)
        origin, step = np.array((-43.6 + number / 100, -22.9)), np.array((4.5e-6, -4.5e-6))
        features = []
        for index, placement in _place(shapes, rng, height):
            shapes[index].draw(image, placement, tint=rng.uniform(-15, 15, 3))
            ring = placement.to_pixels(shapes[index].parts[0][0]) * step + origin
            ring = [[*point, 0.0] for point in (*ring.tolist(), ring[0].tolist())]
            features.append(dict(type='Feature', properties=dict(HGIS_OBJ='L4'),
                                 geometry=dict(type='Polygon', coordinates=[ring])))
        pixels = np.clip(image[:height], 0, 255).astype(np.uint8)
        Image.fromarray(pixels[..., ::-1]).save(
            root / '3band' / f'3band_AOI_1_RIO_img{number}.tif',
            tiffinfo={33550: (*np.abs(step).tolist(), 0.0),
                      33922: (0.0, 0.0, 0.0, *origin.tolist(), 0.0)})
        (root / 'geojson' / f'Geo_AOI_1_RIO_img{number}.geojson').write_text(
            json.dumps(dict(type='FeatureCollection', features=features)))
    return root


def make_oscd(root: str | Path, seed: int = 0) -> Path:
    """All 24 cities, 190 x 180 pixels; every other one has bands instead of colour images."""
    root, rng = Path(root), np.random.default_rng(seed)
    title = 'Onera Satellite Change Detection dataset - '
    for split, cities in OSCD_CITIES.items():
        write_text(root / f'{title}Images' / f'{split}.txt', ','.join(cities))
        for number, city in enumerate(cities):
            *dates, changed = (part[:, :180] for part in _pair(rng, 190, 8))
            where = root / f'{title}Images' / city
            for date, image in enumerate(dates, 1):
                write_text(where / 'dates.txt', 'date_1: 20160101\ndate_2: 20180101\n')
                if number % 2 == 0:
                    _write(where / 'pair' / f'img{date}.png', image)
                    continue
                for channel, (band, (low, high)) in zip((2, 1, 0), OSCD_BANDS.items()):
                    values = low + np.clip(image[..., channel], 0, 255) / 255 * (high - low)
                    _write(where / f'imgs_{date}_rect' / f'S2A_{band}.tif',
                           values.astype(np.uint16))
            labels = root / f'{title}{split.capitalize()} Labels' / city / 'cm'
            _write(labels / f'{city}-cm.tif', changed + np.uint8(1))
            _write(labels / 'cm.png', cv2.cvtColor(changed * np.uint8(255), cv2.COLOR_GRAY2BGRA))
    return root


def make_whu(root: str | Path, seed: int = 0) -> Path:
    """One pair of 700 x 800 pixels (true: 15354 x 32507); the label is 0 and 1."""
    root = Path(root)
    *dates, changed = (part[:700] for part in _pair(np.random.default_rng(seed), 800, 24))
    for name, image in zip(('before', 'after'), dates):
        _write(root / name / f'{name}.tif', image)
    _write(root / 'change label' / 'change_label.tif', changed)
    return root


def make_gvlm(root: str | Path, seed: int = 0) -> Path:
    """Three sites of 300 to 520 pixels (true: 17, thousands of pixels)."""
    root, rng = Path(root), np.random.default_rng(seed)
    for site, size in (('A Luoi_Vietnam', 520), ('Asakura_Japan', 300), ('Askja_Iceland', 400)):
        for name, part in zip(('im1', 'im2', 'ref'), _pair(rng, size, 10)):
            pixels = part * np.uint8(255) if name == 'ref' else part
            _write(root / 'GVLM_CD' / site / f'{name}.png', pixels)
    return root


def _make_split_pairs(top: str, names: Sequence[str], suffix: str, size: int,
                      counts: Sequence[int], root: str | Path, seed: int = 0) -> Path:
    root, rng = Path(root), np.random.default_rng(seed)
    for split, count in zip(SPLITS, counts):
        for number in range(1, count + 1):
            for name, part in zip(names, _pair(rng, size, max(4, size // 64))):
                pixels = part * np.uint8(255) if name == names[2] else part
                _write(root / top / split / name / f'{split}_{number}{suffix}', pixels)
    return root


def _pair(rng: np.random.Generator, size: int, count: int = 4,
          ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two dates, float32 BGR ``(S, S, 3)``, and uint8 ``(S, S)`` 1 where a building was added.

    A third of the buildings stands at both dates; light and colour of the ground change.
    """
    before = _ground(rng, size)
    after = before * rng.uniform(0.85, 1.15) + rng.normal(0, 5, 3)
    changed = np.zeros((size, size), np.uint8)
    for number in range(count):
        shape = BUILDINGS[int(rng.integers(len(BUILDINGS)))]
        length = rng.uniform(20, 50)
        centre = rng.uniform(length, size - length, 2)
        # drawn in a window: a scene is large, a building is not
        window = tuple(slice(int(c - length), int(c + length)) for c in centre[::-1])
        corner = np.array([side.start for side in window[::-1]])
        placement = Placement(tuple(centre - corner), length, rng.uniform(-np.pi, np.pi))
        tint = rng.uniform(-15, 15, 3)
        mask = shape.draw(after[window], placement, tint)
        if number % 3 == 0:
            shape.draw(before[window], placement, tint)
            changed[window][mask > 0] = 0
        else:
            changed[window] |= mask
    return before, after, changed


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), pixels)


MAKE = {
    'eurosat': make_eurosat, 'resisc45': make_resisc45, 'spacenet_v1': make_spacenet_v1,
    'loveda': make_loveda, 'oscd': make_oscd, 'whu': make_whu, 'gvlm': make_gvlm,
    'levir': partial(_make_split_pairs, '', ('A', 'B', 'label'), '.png', 512, (2, 1, 1)),
    'svcd': partial(_make_split_pairs, 'ChangeDetectionDataset/Real/subset', ('A', 'B', 'OUT'),
                    '.jpg', 256, (4, 2, 2)),
    'clcd': partial(_make_split_pairs, '', ('time1', 'time2', 'label'), '.png', 512, (1, 1, 1)),
    'egy_bcd': partial(_make_split_pairs, '', ('A', 'B', 'label'), '.png', 256, (4, 2, 2)),
}
