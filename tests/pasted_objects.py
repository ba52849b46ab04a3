"""Objects across the borders of tiles, beside those elsewhere, in a scene of real images.

``python -m tests.pasted_objects --out DIR [FORM ...] [OPTION ...]`` pastes planes and tanks of NWPU
VHR-10, cut out along their outlines, onto its ground without objects. It trains on small images of
one half of the data with ``mtp train`` and the options, predicts a scene of the other half with
``mtp predict``, and counts what is found. Each object lies in the scene twice: once across a border
of tiles, once within what one tile alone sees. The table in docs/prediction.md is what it printed.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rasterio
import shapely
from PIL import Image

from mtp.prediction.run_scene import OVERLAP
from mtp.prediction.tile_grid import Tiles
from tests.few_images import ENCODER, SHARED, mtp
from tests.label_forms import write

FORMS = ('coco', 'dota')
CLASSES = ('airplane', 'storage_tank')
TILE = 224  # side in pixels, of the training's images and so of tiles
PATCH = 200  # side in pixels of the ground that a scene is made of; its seams are no borders
SIZES = (20, int(TILE * OVERLAP))  # of objects, the longer side in pixels; at most an overlap
SCALE = 0.6  # of objects: most planes are longer than an overlap
IMAGES = dict(train=600, val=60)  # made to train on
OBJECTS = 5  # of each of them
ROWS = 20  # of tiles of the scene
PLACES = 400  # of objects across borders, and as many elsewhere
GAP = 4  # between objects in pixels
SCORE = 0.3  # of objects that are counted, as `mtp predict` shows


@dataclass(frozen=True)
class Cutout:
    """An object of an image.

    Attributes:
        name: its class.
        pixels: RGB, uint8 ``(h, w, 3)``.
        mask: which of them are the object's, bool ``(h, w)``.
        outline: corners of its outline, x and y in its pixels, ``(N, 2)``.
    """

    name: str
    pixels: np.ndarray
    mask: np.ndarray
    outline: np.ndarray

    def turned(self, turns: int) -> 'Cutout':
        """Return it after quarter turns, counter-clockwise."""
        outline = self.outline
        for turn in range(turns):
            outline = np.stack([outline[:, 1], self.mask.shape[1 - turn % 2] - outline[:, 0]], 1)
        pixels, mask = np.rot90(self.pixels, turns), np.rot90(self.mask, turns)
        return Cutout(self.name, pixels, mask, outline)


class Material:
    """Objects and ground of some images of NWPU VHR-10.

    Args:
        number: 0 for every second image, 1 for the others.
    """

    def __init__(self, number: int) -> None:
        root = SHARED / 'nwpu_vhr10'
        labels = json.loads((root / 'instances_train.json').read_text())
        names = {each['id']: each['name'] for each in labels['categories']}
        images = sorted(labels['images'], key=lambda image: image['file_name'])[number::2]
        self.cutouts: list[Cutout] = []
        self.grounds: list[tuple[np.ndarray, np.ndarray]] = []  # an image and its objects' boxes
        for entry in images:
            with Image.open(root / 'images' / entry['file_name']) as file:
                image = np.array(file.convert('RGB'))
            objects = [each for each in labels['annotations'] if each['image_id'] == entry['id']]
            for each in objects:
                if (name := names[each['category_id']]) in CLASSES:
                    self._cut(image, name, np.reshape(each['segmentation'][0], (-1, 2)))
            corners = np.array([each['bbox'] for each in objects]).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            self.grounds.append((image, corners))

    def _cut(self, image: np.ndarray, name: str, outline: np.ndarray) -> None:
        small = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
        outline = outline * SCALE
        low = np.maximum(np.floor(outline.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(outline.max(0)).astype(int), small.shape[1::-1])
        if not SIZES[0] <= (high - low).max() <= SIZES[1]:
            return
        pixels = small[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(pixels.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.rint(outline - low).astype(np.int32)], 1)
        self.cutouts.append(Cutout(name, pixels, mask.astype(bool), outline - low))

    def ground(self, side: int, draw: np.random.Generator) -> np.ndarray:
        """Return a random part of an image that meets no object, uint8 ``(side, side, 3)``."""
        while True:
            image, boxes = self.grounds[draw.integers(len(self.grounds))]
            room = np.array(image.shape[1::-1]) - side
            if (room < 0).any():
                continue
            x, y = draw.integers(room + 1)
            apart = (boxes[:, :2] >= (x + side, y + side)) | (boxes[:, 2:] <= (x, y))
            if apart.any(1).all():
                return image[y : y + side, x : x + side]


class Canvas:
    """An image that objects are pasted into, where they do not touch each other.

    Args:
        image: the ground, uint8 ``(H, W, 3)``; it is changed.
        draw: random numbers.

    Attributes:
        objects: class and outline of each, x and y in pixels, ``(N, 2)``.
    """

    def __init__(self, image: np.ndarray, draw: np.random.Generator) -> None:
        self.image, self.draw = image, draw
        self.objects: list[tuple[str, np.ndarray]] = []
        self._taken = np.zeros(image.shape[:2], bool)

    def paste(self, cutout: Cutout, fits: 'Borders | None' = None, across: bool = False) -> bool:
        """Paste an object at a random place; return whether one was found.

        Args:
            cutout: the object.
            fits: borders of tiles; None for any place.
            across: whether it lies across a border, or meets none.
        """
        height, width = cutout.mask.shape
        room = self.image.shape[0] - height, self.image.shape[1] - width
        for _ in range(10_000):
            y, x = (int(self.draw.integers(each + 1)) for each in room)
            around = self._taken[
                max(y - GAP, 0) : y + height + GAP, max(x - GAP, 0) : x + width + GAP
            ]
            box = x, y, x + width, y + height
            if around.any() or (fits is not None and fits.meet(*box) != across):
                continue
            part = np.s_[y : y + height, x : x + width]
            self.image[part][cutout.mask] = cutout.pixels[cutout.mask]
            self._taken[part] = True
            self.objects.append((cutout.name, cutout.outline + (x, y)))
            return True
        return False


class Borders:
    """Borders of tiles: their edges, and where another tile begins to answer for objects."""

    def __init__(self, tiles: Tiles) -> None:
        self.x = self._lines(tiles.lefts, tiles.shape[1], tiles.size[1])
        self.y = self._lines(tiles.tops, tiles.shape[0], tiles.size[0])

    @staticmethod
    def _lines(begins: list[int], side: int, size: int) -> np.ndarray:
        edges = {edge for begin in begins for edge in (begin, begin + side)} - {0, size}
        middles = {(begin + side + later) / 2 for begin, later in zip(begins, begins[1:])}
        return np.array(sorted(edges | middles))

    def meet(self, x1: float, y1: float, x2: float, y2: float) -> bool:
        """Return whether a border runs through a box."""
        across = ((self.x > x1) & (self.x < x2)).any()
        return bool(across or ((self.y > y1) & (self.y < y2)).any())


def boxes_of(form: str, outlines: list[np.ndarray]) -> list[np.ndarray]:
    """Return the corners ``(4, 2)`` of the boxes around outlines, upright or the smallest."""
    if form == 'dota':
        return [cv2.boxPoints(cv2.minAreaRect(each.astype('float32'))) for each in outlines]
    frames = [(*each.min(0), *each.max(0)) for each in outlines]
    return [np.array([(a, b), (c, b), (c, d), (a, d)]) for a, b, c, d in frames]


def make_images(form: str, folder: Path) -> None:
    """Write images with their labels to train on, in the splits ``train`` and ``val``."""
    draw, material = np.random.default_rng(0), Material(0)
    for split, number in IMAGES.items():
        truth = {}
        images = folder / split / 'images'
        images.mkdir(parents=True)
        for i in range(number):
            canvas = Canvas(material.ground(TILE, draw).copy(), draw)
            for cutout in draw.choice(np.array(material.cutouts, object), OBJECTS):
                canvas.paste(cutout.turned(int(draw.integers(4))))
            names, outlines = zip(*canvas.objects)
            truth[f'{split}{i:03d}'] = list(zip(names, boxes_of(form, outlines)))
            Image.fromarray(canvas.image).save(images / f'{split}{i:03d}.png')
        write(form, folder / split / 'labels', truth, CLASSES, (TILE, TILE))


def make_scene(path: Path) -> Canvas:
    """Write a scene with objects across borders, then the same elsewhere."""
    draw, material = np.random.default_rng(1), Material(1)
    side = TILE + (ROWS - 1) * (TILE - SIZES[1])
    parts = -(-side // PATCH)
    rows = [[material.ground(PATCH, draw) for _ in range(parts)] for _ in range(parts)]
    image = np.concatenate([np.concatenate(row, 1) for row in rows])[:side, :side].copy()
    canvas, borders = Canvas(image, draw), Borders(Tiles((side, side), TILE, SIZES[1]))
    chosen = draw.choice(np.array(material.cutouts, object), PLACES)
    for across in (True, False):
        for cutout in chosen:
            if not canvas.paste(cutout, borders, across):
                raise SystemExit('the scene has no place left: make it larger')
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
    options = dict(dtype='uint8', crs='EPSG:32632', transform=place, photometric='RGB', tiled=True)
    with rasterio.open(path, 'w', 'GTiff', side, side, 3, **options) as file:
        file.write(image.transpose(2, 0, 1))
    return canvas


def count(form: str, canvas: Canvas, content: dict) -> Iterator[str]:
    """Yield a row of the table for the objects across borders, and one for those elsewhere.

    An object is found if the overlap of its box with a prediction of its class, over their union,
    is above 0.5. It is there twice if two predictions of its class share more than half of the
    smaller of both boxes with it.
    """
    names, outlines = zip(*canvas.objects)
    true = shapely.polygons(np.array(boxes_of(form, outlines)))
    categories = {each['id']: each['name'] for each in content['categories']}
    found, found_names = [], []
    for each in content['annotations']:
        x, y, width, height = each['bbox']
        ring = np.reshape(each['segmentation'][0], (-1, 2)) if form == 'dota' else None
        found.append(
            shapely.box(x, y, x + width, y + height) if ring is None else shapely.Polygon(ring)
        )
        found_names.append(categories[each['category_id']])
    shapes = np.array(found, object)
    i, j = shapely.STRtree(shapes).query(true, predicate='intersects')
    same = np.array(names)[i] == np.array(found_names)[j]
    i, j = i[same], j[same]
    shared = shapely.area(shapely.intersection(true[i], shapes[j]))
    areas = shapely.area(true[i]), shapely.area(shapes[j])
    hits = np.zeros(len(true), bool)
    hits[i[shared / (areas[0] + areas[1] - shared) > 0.5]] = True
    on_it = np.bincount(i[shared > 0.5 * np.minimum(*areas)], minlength=len(true))
    for where, part in (('across', np.s_[:PLACES]), ('elsewhere', np.s_[PLACES:])):
        yield f'| {where} | {PLACES} | {100 * hits[part].mean():.1f} | {(on_it[part] > 1).sum()} |'


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('forms', nargs='*', default=FORMS, metavar='FORM', help=', '.join(FORMS))
    parser.add_argument('--out', type=Path, required=True, help='a new folder')
    args, options = parser.parse_known_args()
    print('| labels | merged by | objects | number | recall, % | there twice |')
    print('| --- | --- | --- | --- | --- | --- |')
    for form in args.forms:
        folder = args.out.resolve() / form
        make_images(form, folder / 'mine')
        canvas = make_scene(folder / 'scene.tif')
        command = ['--data', 'mine', '--encoder', ENCODER, '--weights', 'none', '--work-dir', 'run']
        mtp(folder, 'train', *command, *options)
        checkpoint = Path((folder / 'run' / 'last_checkpoint').read_text().strip()).name
        for rule in ('iou', 'ios'):
            command = [f'run/{checkpoint}', 'scene.tif', '--out', rule, '--format', 'coco', 'png']
            mtp(folder, 'predict', *command, '--score', str(SCORE), '--merge', rule)
            content = json.loads((folder / rule / 'scene.json').read_text())
            for row in count(form, canvas, content):
                print(f'| {form} | {rule} {row}', flush=True)


if __name__ == '__main__':
    main()
