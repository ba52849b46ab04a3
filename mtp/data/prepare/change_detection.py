"""Preparation of change detection: ``{train,val,test}/{A,B,label}/<same name>.png``.

Scenes are cut into adjacent tiles from the upper left corner; pixels beyond the right and the lower
border are black and unchanged. Labels become 0 (unchanged) and 255 (changed).
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mtp.data.decoding import read_size, read_stored
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import by_lists, deal, images_in, read_rgb, write_png

SPLITS = ('train', 'val', 'test')
FOLDERS = ('A', 'B', 'label')
# Shares of the random division if the publisher has none.
THREE_FIFTHS = dict(train=0.6, val=0.2, test=0.2)


@dataclass(frozen=True)
class Scene:
    """A pair of images with a change map.

    Attributes:
        name: name of the scene, with which the names of its tiles begin.
        dates: files of the earlier and of the later date: one colour image, or red, green and blue
            bands; empty if the date is missing.
        label: file of the change map; None if it is missing.
        values: values of the label, (unchanged, changed): several pairs if the publisher mixes
            them, empty for grey values, of which those from 128 on mean changed.
        split: name of the split; None to divide the tiles at random.
        ranges: values of red, green and blue that become 0 and 255, if each band has its own file.
    """

    name: str
    dates: tuple[tuple[Path, ...], tuple[Path, ...]]
    label: Path | None
    values: tuple[tuple[int, int], ...] = ((0, 255), (0, 1))
    split: str | None = None
    ranges: tuple[tuple[int, int], ...] = ()


def find_scenes(
    root: Path, report: Report, names: tuple[str, str, str] = FOLDERS, divide: bool = False
) -> list[Scene]:
    """Find the pairs in three folders whose files have the same names.

    Args:
        root: folder with the folders of the splits, or with the three folders and
            ``list/<split>.txt``.
        report: gets a line for each image or label that belongs to no pair.
        names: folders of the earlier date, the later date and the label.
        divide: whether the pairs may come without a split, which is then left to
            :func:`cut_scenes`.

    Raises:
        FileNotFoundError: a folder or a list is missing.
    """
    if not all((root / name).is_dir() for name in names):
        return [
            scene for split in SPLITS for scene in _pairs(folder(root, split), names, report, split)
        ]
    scenes = _pairs(root, names, report)
    lists = {split: root / 'list' / f'{split}.txt' for split in SPLITS}
    if divide and not any(path.is_file() for path in lists.values()):
        return scenes
    splits = by_lists(lists, [scene.name for scene in scenes], report)
    return [replace(scene, split=splits[scene.name]) for scene in scenes if scene.name in splits]


def _pairs(
    where: Path, names: tuple[str, str, str], report: Report, split: str | None = None
) -> list[Scene]:
    first, second, labels = (images_in(folder(where, name), report) for name in names)
    for others in (second, labels):
        report.bad += [
            f'{others[stem]}: no image of this name in {where / names[0]}'
            for stem in sorted(set(others) - set(first))
        ]
    scenes = []
    for stem in first:
        label = labels.get(stem)
        soft = label is not None and label.suffix.lower() in ('.jpg', '.jpeg')
        scenes.append(
            pair(
                stem,
                first.get(stem),
                second.get(stem),
                label,
                values=() if soft else Scene.values,
                split=split,
            )
        )
    return scenes


def pair(
    name: str,
    first: Path | None,
    second: Path | None,
    label: Path | None,
    *,
    values: tuple[tuple[int, int], ...] = Scene.values,
    split: str | None = None,
) -> Scene:
    """Return the scene of three files, of which None are missing."""
    dates = (first,) if first else (), (second,) if second else ()
    return Scene(name, dates, label, values, split)


Tile = tuple[Path, str, int, int]  # folder of the split, file name, and upper left corner y, x


def cut_scenes(
    scenes: list[Scene],
    dst: Path,
    size: int,
    report: Report,
    shares: dict[str, float] | None = None,
) -> Report:
    """Cut scenes into tiles, on all cores.

    Args:
        scenes: pairs with their labels.
        dst: folder to write to.
        size: side of a tile in pixels.
        report: gets the counts, and a line for each scene that cannot be used.
        shares: split -> share of the tiles, for scenes without a split, whose tiles are divided at
            random; the shares add up to 1.

    Returns:
        Report: ``report``.

    Raises:
        ValueError: the size of a scene without a split cannot be read, so that the tiles cannot be
            divided.
    """
    shares = shares or {}
    tiles: dict[str, dict[str, tuple[int, int]]] = {}
    usable = []
    for scene in scenes:
        try:
            tiles[_key(scene)] = _grid(scene, size)
            usable.append(scene)
        except ValueError as error:
            report.bad.append(f'{_key(scene)}: {error}')
    undivided = [scene for scene in scenes if scene.split is None]
    if unusable := [_key(scene) for scene in undivided if _key(scene) not in tiles]:
        raise ValueError(
            '; '.join(report.bad) + f'. All tiles are divided into {", ".join(shares)} '
            f'together: mend {", ".join(unusable)} first'
        )
    splits = deal([name for scene in undivided for name in tiles[_key(scene)]], shares)
    items = []
    for scene in usable:
        items.append(
            (
                scene,
                [
                    (dst / (scene.split or splits[name]), name, *corner)
                    for name, corner in tiles[_key(scene)].items()
                ],
            )
        )
    pairs: Counter[str] = Counter()
    for done in process(partial(_cut, size), items, 'scenes', report, _item_key):
        pairs.update(done)
    report.made.update({f'{split} pairs': pairs[split] for split in SPLITS if split in pairs})
    return report


def _key(scene: Scene) -> str:
    """Return the name of a scene for messages."""
    return f'{scene.split}/{scene.name}' if scene.split else scene.name


def _item_key(item: tuple[Scene, list[Tile]]) -> str:
    return _key(item[0])


def _grid(scene: Scene, size: int) -> dict[str, tuple[int, int]]:
    """Return the tiles of a scene: file name -> upper left corner (y, x) in pixels."""
    if not scene.dates[0]:
        raise ValueError('its first image is missing')
    height, width = read_size(scene.dates[0][0])
    if height <= size and width <= size:
        return {f'{scene.name}.png': (0, 0)}
    return {
        f'{scene.name}_{y:04d}_{x:04d}.png': (y, x)
        for y, x in product(range(0, height, size), range(0, width, size))
    }


def _cut(size: int, item: tuple[Scene, list[Tile]]) -> Counter:
    """Write the missing tiles of a scene; return the number of all its tiles per split."""
    scene, tiles = item
    # the label is written last: it marks a finished tile
    missing = [tile for tile in tiles if not (tile[0] / 'label' / tile[1]).is_file()]
    if missing:
        images = dict(zip(FOLDERS, _load(scene)))

        def write(tile: Tile) -> None:
            where, name, y, x = tile
            for kind, pixels in images.items():
                part = pixels[y : y + size, x : x + size]
                below, right = size - part.shape[0], size - part.shape[1]
                write_png(
                    where / kind / name,
                    cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_CONSTANT),
                )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(
                tqdm(
                    pool.map(write, missing),
                    f'tiles of {scene.name}',
                    len(missing),
                    leave=False,
                    disable=len(missing) < 500,
                )
            )
    return Counter(where.name for where, *_ in tiles)


def _load(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load both images, uint8 ``(H, W, 3)``, and the label ``(H, W)``, 0 or 255."""
    labels: tuple[Path, ...] = (scene.label,) if scene.label else ()
    for files, what in (*zip(scene.dates, ('first image', 'second image')), (labels, 'label')):
        if not files:
            raise ValueError(f'its {what} is missing')
    first, second = (_colour(files, scene.ranges) for files in scene.dates)
    (label_path,) = labels
    label = read_stored(label_path)
    for path, pixels in ((scene.dates[1][0], second), (label_path, label)):
        if pixels.shape[:2] != first.shape[:2]:
            raise ValueError(
                f'{path} has (height, width) {pixels.shape[:2]}, but '
                f'{scene.dates[0][0]} {first.shape[:2]}'
            )
    return first, second, _changed(scene, label)


def _colour(files: tuple[Path, ...], ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
    if len(files) == 1:
        return read_rgb(files[0])
    bands = [read_stored(path).astype(np.float32) for path in files]
    if any(band.shape != bands[0].shape for band in bands):
        raise ValueError(
            f'{", ".join(str(path) for path in files)} have the shapes '
            f'{[band.shape for band in bands]}'
        )
    return np.stack(
        [
            np.clip((band - low) / (high - low), 0, 1) * 255
            for band, (low, high) in zip(bands, ranges)
        ],
        2,
    ).astype(np.uint8)


def _changed(scene: Scene, label: np.ndarray) -> np.ndarray:
    """Convert a label as stored to uint8 ``(H, W)``, 0 or 255."""
    if label.ndim == 3:
        if scene.values and (label != label[..., :1]).any():
            raise ValueError(f'{scene.label} is in colour: a grey label is expected')
        label = cv2.cvtColor(label, cv2.COLOR_RGB2GRAY) if not scene.values else label[..., 0]
    if not scene.values:
        if label.dtype != np.uint8:
            raise ValueError(
                f'{scene.label} holds {label.dtype}: grey values of 8 bits are expected'
            )
        return (label >= 128).astype(np.uint8) * np.uint8(255)
    found = {*np.unique(label).tolist()}
    for low, high in scene.values:
        if found <= {low, high}:
            return (label == high).astype(np.uint8) * np.uint8(255)
    raise ValueError(
        f'{scene.label} holds the values {sorted(found)[:8]}: known are '
        + ', or '.join(f'{low} and {high}' for low, high in scene.values)
    )
