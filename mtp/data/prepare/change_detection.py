"""Change detection: pairs of images to ``{train,val,test}/{A,B,label}/<same name>.png``.

Scenes are cut into tiles side by side from the upper left corner; what is beyond the right and the
lower border is black and unchanged. Labels become 0 (unchanged) and 255 (changed).
"""
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import (
    by_lists,
    deal,
    images_in,
    read_image,
    read_rgb,
    read_size,
    write_png,
)

SPLITS = ('train', 'val', 'test')
FOLDERS = ('A', 'B', 'label')

# WHU: 7:1:2 of the 7620 tiles are the 5334 and 1524 that the published runs have seen. The others:
# shares of the papers that used them; which tiles they took has not been told.
WHU_SHARES = dict(train=0.7, val=0.1, test=0.2)
THREE_FIFTHS = dict(train=0.6, val=0.2, test=0.2)

# The owner's split, from the lists that come with OSCD.
OSCD_CITIES = {
    'train': ('aguasclaras', 'bercy', 'bordeaux', 'nantes', 'paris', 'rennes', 'saclay_e',
              'abudhabi', 'cupertino', 'pisa', 'beihai', 'hongkong', 'beirut', 'mumbai'),
    'test': ('brasilia', 'montpellier', 'norcia', 'rio', 'saclay_w', 'valencia', 'dubai',
             'lasvegas', 'milano', 'chongqing')}
# Red, green, blue of Sentinel-2 and the values that become 0 and 255, those of SeCo (Manas et al.,
# 2021), whose 827 and 385 tiles of 96 pixels are the ones that the published runs have seen.
OSCD_BANDS = {'B04': (426, 3698), 'B03': (667, 2969), 'B02': (885, 2620)}


@dataclass(frozen=True)
class Scene:
    """A pair of images and what has changed.

    Attributes:
        name: of its tiles.
        dates: files of the first and the second date: one in colour, or red, green and blue; none
            where it is missing.
        label: file of the label; None where it is missing.
        values: of the label, unchanged and changed; several pairs where the owner mixes them, none
            for grey values, of which those from 128 on are changed.
        split: None to have its tiles divided at random.
    """
    name: str
    dates: tuple[tuple[Path, ...], tuple[Path, ...]]
    label: Path | None
    values: tuple[tuple[int, int], ...] = ((0, 255), (0, 1))
    split: str | None = None


def levir(src: Path, dst: Path) -> Report:
    """``{train,val,test}/{A,B,label}/*.png`` of 1024 pixels -> 256."""
    report = Report()
    return _cut_all(_find(src, report), dst, 256, report)


def svcd(src: Path, dst: Path) -> Report:
    """``Real/subset/{train,val,test}/{A,B,OUT}/*.jpg`` of 256 pixels -> png."""
    report = Report()
    root = folder(src, 'ChangeDetectionDataset/Real/subset', 'Real/subset', '.')
    return _cut_all(_find(root, report, ('A', 'B', 'OUT')), dst, 256, report)


def clcd(src: Path, dst: Path) -> Report:
    """``{train,val,test}/{time1,time2,label}/*.png`` of 512 pixels -> 256."""
    report = Report()
    return _cut_all(_find(src, report, ('time1', 'time2', 'label')), dst, 256, report)


def egy_bcd(src: Path, dst: Path) -> Report:
    """``{train,val,test}/{A,B,label}/*.png`` or undivided ``{A,B,label}``, of 256 pixels."""
    report = Report()
    return _cut_all(_find(src, report, divide=True), dst, 256, report, THREE_FIFTHS)


def gvlm(src: Path, dst: Path) -> Report:
    """``<site>/{im1,im2,ref}.png`` of any size -> tiles of 256, divided at random."""
    report = Report()
    scenes = []
    for where in sorted(path for path in folder(src, 'GVLM_CD', '.').iterdir() if path.is_dir()):
        files = images_in(where, report)
        scenes.append(Scene(where.name.replace(' ', '_'), (_one(files, 'im1'), _one(files, 'im2')),
                            files.get('ref')))
    if not scenes:
        raise FileNotFoundError(f'{src} has no folder of a site: unpack GVLM_CD there')
    return _cut_all(scenes, dst, 256, report, THREE_FIFTHS)


def whu(src: Path, dst: Path) -> Report:
    """Two aerial images of Christchurch -> tiles of 256, divided 7:1:2 at random.

    Either ``before/before.tif``, ``after/after.tif``, ``change label/change_label.tif``, or the
    owner's two regions, ``2012/whole_image/train/image/2012_train.tif`` and so on.
    """
    report = Report()
    root = folder(src, 'Building change detection dataset_add/1. The two-period image data',
                  '1. The two-period image data', '.')
    if (root / 'before').is_dir():
        files = [root / 'before/before.tif', root / 'after/after.tif',
                 root / 'change label/change_label.tif']
        scenes = [_from_files('whu', files)]
    else:
        folder(root, 'before', '2012/whole_image')
        scenes = [_from_files(f'whu_{region}', [
            root / f'2012/whole_image/{region}/image/2012_{region}.tif',
            root / f'2016/whole_image/{region}/image/2016_{region}.tif',
            root / f'change_label/{region}/change_label.tif']) for region in ('train', 'test')]
    return _cut_all(scenes, dst, 256, report, WHU_SHARES)


def oscd(src: Path, dst: Path) -> Report:
    """``<city>/pair/img{1,2}.png``, or the bands of ``<city>/imgs_{1,2}_rect`` -> 96 pixels.

    Cities are split by ``train.txt`` and ``test.txt`` beside them, or by the owner's lists, which
    are known. The recipe validates on ``test``.
    """
    report = Report()
    title = 'Onera Satellite Change Detection dataset - '
    images = folder(src, f'{title}Images', 'images')
    labels = [path for part in (f'{title}Train Labels', f'{title}Test Labels', 'train_labels',
                                'test_labels') if (path := src / part).is_dir()]
    scenes = []
    for split, city, place in _cities(images):
        if not (images / city).is_dir():
            report.bad.append(f'{place}: no folder {images / city}')
            continue
        dates = tuple(_date(images / city, number) for number in (1, 2))
        found = [path for root in labels
                 for path in (root / city / 'cm' / f'{city}-cm.tif', root / city / 'cm' / 'cm.png')
                 if path.is_file()]
        label = found[0] if found else None
        # the png files are painted, some with soft edges
        values = ((1, 2),) if label and label.suffix == '.tif' else ()
        scenes.append(Scene(city, dates, label, values, split))
    return _cut_all(scenes, dst, 96, report)


def _cities(images: Path) -> Iterator[tuple[str, str, str]]:
    """Split, city, and where that is written."""
    for split, cities in OSCD_CITIES.items():
        path = images / f'{split}.txt'
        if path.is_file():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                yield from ((split, city.strip(), f'{path}, line {number}')
                            for city in line.split(',') if city.strip())
        else:
            yield from ((split, city, f'{split} city {city}') for city in cities)


def _date(city: Path, number: int) -> tuple[Path, ...]:
    """Files of a date: one, or three bands; none where they are missing."""
    pair = city / 'pair' / f'img{number}.png'
    if pair.is_file():
        return (pair,)
    bands = [sorted((city / f'imgs_{number}_rect').glob(f'*{band}.tif')) for band in OSCD_BANDS]
    return tuple(paths[0] for paths in bands) if all(bands) else ()


def _find(root: Path, report: Report, names: tuple[str, str, str] = FOLDERS,
          divide: bool = False) -> list[Scene]:
    """Scenes of folders of a split each, of lists in ``list``, or of none (``divide``)."""
    if not all((root / name).is_dir() for name in names):
        return [scene for split in SPLITS
                for scene in _pairs(folder(root, split), names, report, split)]
    scenes = _pairs(root, names, report)
    lists = {split: root / 'list' / f'{split}.txt' for split in SPLITS}
    if divide and not any(path.is_file() for path in lists.values()):
        return scenes
    splits = by_lists(lists, [scene.name for scene in scenes], report)
    return [Scene(scene.name, scene.dates, scene.label, scene.values, splits[scene.name])
            for scene in scenes if scene.name in splits]


def _pairs(where: Path, names: tuple[str, str, str], report: Report,
           split: str | None = None) -> list[Scene]:
    first, second, labels = (images_in(folder(where, name), report) for name in names)
    for others in (second, labels):
        report.bad += [f'{others[stem]}: no image of this name in {where / names[0]}'
                       for stem in sorted(set(others) - set(first))]
    scenes = []
    for stem in first:
        label = labels.get(stem)
        soft = label is not None and label.suffix.lower() in ('.jpg', '.jpeg')
        scenes.append(Scene(stem, (_one(first, stem), _one(second, stem)), label,
                            () if soft else Scene.values, split))
    return scenes


def _one(files: dict[str, Path], stem: str) -> tuple[Path, ...]:
    return (files[stem],) if stem in files else ()


def _from_files(name: str, files: list[Path]) -> Scene:
    first, second, label = (path if path.is_file() else None for path in files)
    return Scene(name, ((first,) if first else (), (second,) if second else ()), label)


Tile = tuple[Path, str, int, int]  # folder of the split, file name, and upper left corner y, x


def _cut_all(scenes: list[Scene], dst: Path, size: int, report: Report,
             shares: dict[str, float] | None = None) -> Report:
    """Cut scenes into tiles; those of scenes without a split are divided by ``shares``."""
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
        raise ValueError('; '.join(report.bad) + f'. The division into {", ".join(shares)} is one '
                         f'of all tiles: mend {", ".join(unusable)} first')
    splits = deal([name for scene in undivided for name in tiles[_key(scene)]], shares or {})
    items = []
    for scene in usable:
        items.append((scene, [(dst / (scene.split or splits[name]), name, *corner)
                              for name, corner in tiles[_key(scene)].items()]))
    pairs = Counter()
    for done in process(partial(_cut, size), items, 'scenes', report, _item_key):
        pairs.update(done)
    report.made.update({f'{split} pairs': pairs[split] for split in SPLITS if split in pairs})
    return report


def _key(scene: Scene) -> str:
    """What a scene is called in messages."""
    return f'{scene.split}/{scene.name}' if scene.split else scene.name


def _item_key(item: tuple[Scene, list[Tile]]) -> str:
    return _key(item[0])


def _grid(scene: Scene, size: int) -> dict[str, tuple[int, int]]:
    """File name -> upper left corner of each tile."""
    if not scene.dates[0]:
        raise ValueError('its first image is missing')
    height, width = read_size(scene.dates[0][0])
    if height <= size and width <= size:
        return {f'{scene.name}.png': (0, 0)}
    return {f'{scene.name}_{y:04d}_{x:04d}.png': (y, x)
            for y, x in product(range(0, height, size), range(0, width, size))}


def _cut(size: int, item: tuple[Scene, list[Tile]]) -> Counter:
    """Write the tiles of a scene that are not there; gives the number of its tiles per split."""
    scene, tiles = item
    # the label is written last
    missing = [tile for tile in tiles if not (tile[0] / 'label' / tile[1]).is_file()]
    if missing:
        images = dict(zip(FOLDERS, _load(scene)))

        def write(tile: Tile) -> None:
            where, name, y, x = tile
            for kind, pixels in images.items():
                part = pixels[y:y + size, x:x + size]
                below, right = size - part.shape[0], size - part.shape[1]
                write_png(where / kind / name,
                          cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_CONSTANT))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(tqdm(pool.map(write, missing), f'tiles of {scene.name}', len(missing),
                      leave=False, disable=len(missing) < 500))
    return Counter(where.name for where, *_ in tiles)


def _load(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both images, uint8 ``(H, W, 3)``, and the label ``(H, W)``, 0 or 255."""
    for files, what in ((*zip(scene.dates, ('first image', 'second image')),
                         ((scene.label,) if scene.label else (), 'label'))):
        if not files:
            raise ValueError(f'its {what} is missing')
    first, second = (_colour(files) for files in scene.dates)
    label = read_image(scene.label)
    for path, pixels in ((scene.dates[1][0], second), (scene.label, label)):
        if pixels.shape[:2] != first.shape[:2]:
            raise ValueError(f'{path} has (height, width) {pixels.shape[:2]}, but '
                             f'{scene.dates[0][0]} {first.shape[:2]}')
    return first, second, _changed(scene, label)


def _colour(files: tuple[Path, ...]) -> np.ndarray:
    if len(files) == 1:
        return read_rgb(files[0])
    bands = [read_image(path).astype(np.float32) for path in files]
    if any(band.shape != bands[0].shape for band in bands):
        raise ValueError(f'{", ".join(str(path) for path in files)} have the shapes '
                         f'{[band.shape for band in bands]}')
    return np.stack([np.clip((band - low) / (high - low), 0, 1) * 255
                     for band, (low, high) in zip(bands, OSCD_BANDS.values())], 2).astype(np.uint8)


def _changed(scene: Scene, label: np.ndarray) -> np.ndarray:
    """A label as stored -> uint8 ``(H, W)``, 0 or 255."""
    if label.ndim == 3:
        if scene.values and (label != label[..., :1]).any():
            raise ValueError(f'{scene.label} is in colour: a grey label is expected')
        label = cv2.cvtColor(label, cv2.COLOR_RGB2GRAY) if not scene.values else label[..., 0]
    if not scene.values:
        return (label >= 128).astype(np.uint8) * np.uint8(255)
    found = {*np.unique(label).tolist()}
    for low, high in scene.values:
        if found <= {low, high}:
            return (label == high).astype(np.uint8) * np.uint8(255)
    raise ValueError(f'{scene.label} holds the values {sorted(found)[:8]}: known are '
                     + ', or '.join(f'{low} and {high}' for low, high in scene.values))


PREPARE = {'oscd': oscd, 'whu': whu, 'levir': levir, 'svcd': svcd, 'clcd': clcd,
           'egy_bcd': egy_bcd, 'gvlm': gvlm}
