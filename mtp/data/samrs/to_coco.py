"""Conversion of the published files of SAMRS to the COCO json that :class:`SAMRSDataset` reads."""

import json
import multiprocessing
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mtp.compat import refuse_pickle_bombs
from mtp.data.decoding import read_size
from mtp.data.run_lengths import encode_mask
from mtp.data.samrs.subsets import BACKGROUND, SUBSETS, Subset
from mtp.files import write_json, write_text

SPLITS = ('train', 'valid')
# Number of images from which on several processes pay: starting one imports torch and OpenMMLab,
# which takes some seconds.
MIN_PARALLEL = 1000


@dataclass
class Report:
    """Result of a conversion.

    Attributes:
        objects: split -> number of objects of each class in the json written.
        images: split -> number of images in it.
        skipped: splits whose json existed already.
        bad: files or annotations that could not be used, with the reason, one line each.
        notes: what was read otherwise than it stands, a line each.
    """

    objects: dict[str, Counter] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, split: str, coco: dict) -> None:
        """Record the numbers of images and objects in the json of a split."""
        names = {category['id']: category['name'] for category in coco['categories']}
        self.images[split] = len(coco['images'])
        self.objects[split] = Counter({name: 0 for name in names.values()})
        self.objects[split].update(names[a['category_id']] for a in coco['annotations'])


def parallel(function: Callable, items: Sequence, what: str, cost: int = 1) -> Iterable:
    """Yield ``map(function, items)``, computed on all cores, in order, with a progress bar.

    Args:
        function: picklable function of an item. The processes are spawned, because a forked one
            inherits the locks of the threads that torch and OpenCV run.
        items: arguments of the function.
        what: name of the progress bar.
        cost: cost of an item, relative to an image of 1000 x 1000 pixels.
    """
    bar = partial(tqdm, total=len(items), desc=what)
    if len(items) * cost < MIN_PARALLEL:
        yield from bar(map(function, items))
        return
    with ProcessPoolExecutor(
        mp_context=multiprocessing.get_context('spawn'),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    ) as pool:
        yield from bar(pool.map(function, items, chunksize=max(1, 16 // cost)))


def samrs_to_coco(
    root: Path,
    subset: str,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> Report:
    """Make the COCO json of a subset's splits from its ``.pkl`` files.

    The images of a split are listed in ``<split>.txt`` below ``root``, one stem per line. If both
    lists are missing, the images are split at random and the lists are written. Categories are the
    classes in label order (id = label), ids count from 0, and boxes and areas are computed from the
    masks.

    An interrupted conversion can be started again: results are kept beside the json in a
    ``.journal`` until all images of the split are good. A json without a journal is finished and
    left unchanged; remove it to make it again.

    Args:
        root: root folder of the subset, e.g. ``data/samrs/SOTA``.
        subset: name of the subset: ``'sota'``, ``'sior'`` or ``'fast'``.
        classes: class names in label order; None for the subset's own.
        val_fraction: fraction of the images for validation, 0..1, if there are no lists.
        seed: seed of that random split.

    Returns:
        Report: counts, and one line for each file that could not be used.

    Raises:
        FileNotFoundError: there are no ``.pkl`` files or no images, or one of the two lists is
            missing.
        ValueError: ``val_fraction`` is not in 0..1.
    """
    facts = SUBSETS[subset]
    classes = tuple(classes or facts.classes)
    report = Report()
    folder = root / facts.images
    if not folder.is_dir():
        raise FileNotFoundError(f'no images in {folder}; see docs/pretraining.md for the layout')
    names = {path.stem: path.name for path in folder.iterdir()}
    convert = partial(_convert_pickle, root, facts, len(classes))
    for split, stems in _read_splits(root, facts, val_fraction, seed).items():
        path = root / facts.instances.format(split=split)
        journal = path.with_suffix('.journal')
        if path.is_file() and not journal.is_file():
            report.skipped.append(split)
            continue
        done = _read_journal(journal)
        todo = [(stem, names.get(stem)) for stem in stems if stem not in done]
        with open(journal, 'a') as file:
            for (stem, _), result in zip(todo, parallel(convert, todo, f'{subset} {split}')):
                if isinstance(result, str):
                    report.bad.append(result)
                else:
                    done[stem] = result
                    # the leading newline ends a line that an interruption truncated
                    file.write(f'\n{json.dumps([stem, result])}')
        coco = assemble([done[stem] for stem in stems if stem in done], classes)
        write_json(path, coco)
        report.count(split, coco)
        if len(coco['images']) == len(stems):
            journal.unlink()
    return report


def _read_splits(
    root: Path,
    facts: Subset,
    val_fraction: float,
    seed: int,
) -> dict[str, list[str]]:
    lists = {split: root / f'{split}.txt' for split in SPLITS}
    there = [path for path in lists.values() if path.is_file()]
    if not there:
        stems = sorted(path.stem for path in (root / facts.masks).glob('*.pkl'))
        if not stems:
            raise FileNotFoundError(
                f'no .pkl files in {root / facts.masks}: put the instance '
                'masks of SAMRS there; see docs/pretraining.md'
            )
        for path, part in zip(lists.values(), divide(stems, val_fraction, seed)):
            write_text(path, ''.join(f'{stem}\n' for stem in part))
    elif len(there) < len(lists):
        raise FileNotFoundError(
            f'{there[0]} exists, but not the list of the other split: add it, '
            'or remove this one to have the images divided at random'
        )
    return {
        split: [line.strip() for line in path.read_text().splitlines() if line.strip()]
        for split, path in lists.items()
    }


def divide(items: Sequence, val_fraction: float, seed: int) -> tuple[list, list]:
    """Split items at random into training and validation, each in the given order.

    Raises:
        ValueError: ``val_fraction`` is not in 0..1.
    """
    if not 0 <= val_fraction <= 1:
        raise ValueError(f'val_fraction={val_fraction}: give a share between 0 and 1')
    chosen = set(random.Random(seed).sample(range(len(items)), round(len(items) * val_fraction)))
    return (
        [item for i, item in enumerate(items) if i not in chosen],
        [item for i, item in enumerate(items) if i in chosen],
    )


def _read_journal(path: Path) -> dict[str, tuple[dict, list[dict]]]:
    done = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                stem, result = json.loads(line)
            except ValueError:  # truncated by an interruption, or the empty first line
                continue
            done[stem] = result
    return done


def _convert_pickle(
    root: Path,
    facts: Subset,
    num_classes: int,
    names: tuple[str, str | None],
) -> tuple[dict, list[dict]] | str:
    """Return an image's entries for the COCO json, without ids; or what is wrong with it."""
    stem, image_name = names
    path = root / facts.masks / f'{stem}.pkl'
    try:
        if image_name is None:
            raise ValueError(f'no image of that name in {root / facts.images}')
        height, width = read_size(root / facts.images / image_name)
        annotations = []
        for instance in read_pickle(path):
            label, rle = int(instance['label']), instance['mask']
            if not 0 <= label < num_classes:
                raise ValueError(f'label {label}, but there are {num_classes} classes')
            if tuple(rle['size']) != (height, width):
                raise ValueError(
                    f'a mask of size {tuple(rle["size"])} on an image of {(height, width)}'
                )
            annotations.append(dict(category_id=label, iscrowd=0, **mask_entries(rle)))
    except Exception as error:  # whatever a bad file raises must not end the run; it is reported
        return f'{path}: {type(error).__name__}: {error}'
    return image_entry(image_name, height, width), annotations


def image_entry(name: str, height: int, width: int) -> dict:
    """Return an image's entry for the COCO json, without its id."""
    return dict(file_name=name, segm_file=f'{Path(name).stem}.png', height=height, width=width)


def mask_entries(rle: dict) -> dict:
    """Return ``bbox`` (x, y, w, h), ``area`` and ``segmentation`` of an RLE, as COCO has them."""
    size = [int(side) for side in rle['size']]
    encoded = encode_mask(dict(size=size, counts=rle['counts']), *size)
    return dict(
        bbox=coco_mask.toBbox(encoded).tolist(),
        area=float(coco_mask.area(encoded)),
        segmentation=dict(encoded, counts=encoded['counts'].decode()),
    )


def assemble(
    results: Iterable[tuple[dict, list[dict]]], classes: Sequence[str], first_id: int = 0
) -> dict:
    """Assemble a COCO json: image ids count from 0, categories are in label order.

    Args:
        results: entry of each image and entries of its objects, without ids.
        classes: class names in label order.
        first_id: id of the first annotation.
    """
    coco = dict(
        images=[],
        annotations=[],
        categories=[dict(id=label, name=name) for label, name in enumerate(classes)],
    )
    for number, (image, annotations) in enumerate(results):
        coco['images'].append(dict(image, id=number))
        first = first_id + len(coco['annotations'])
        coco['annotations'] += [
            dict(annotation, id=first + i, image_id=number)
            for i, annotation in enumerate(annotations)
        ]
    return coco


class _DataUnpickler(pickle.Unpickler):
    """Unpickler of containers, numbers and numpy arrays only: others could run any code."""

    allowed = {
        ('numpy', 'dtype'),
        ('numpy', 'ndarray'),
        ('_codecs', 'encode'),
        ('__builtin__', 'bytes'),  # bytes, in protocols before 3
        *(
            (f'numpy.{core}.multiarray', name)
            for core in ('core', '_core')
            for name in ('scalar', '_reconstruct')
        ),
        *((f'numpy.{core}.numeric', '_frombuffer') for core in ('core', '_core')),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise ValueError(
            f'it holds {module}.{name}, which is not plain data: not opened, because '
            'such a pickle can run any code'
        )


def read_pickle(path: Path) -> list[dict]:
    """Read a SAMRS ``.pkl``: a list of ``dict(label=..., mask=RLE)``.

    Raises:
        ValueError: it holds anything other than plain data and arrays.
    """
    data = path.read_bytes()
    refuse_pickle_bombs(data)
    return _DataUnpickler(BytesIO(data)).load()


def paint_semantic(
    masks: Sequence[np.ndarray], labels: Sequence[int], shape: tuple[int, int]
) -> np.ndarray:
    """Paint masks ``(H, W)`` as a label map, uint8 ``(H, W)``: small on top, 255 = background."""
    semantic = np.full(shape, BACKGROUND, np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: -np.count_nonzero(masks[i])):
        semantic[masks[i] > 0] = labels[i]
    return semantic


def rectangle(mask: np.ndarray) -> np.ndarray:
    """Return the rectangle of least area around a mask's pixels: corners ``(4, 2)``, x, y."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    centres = np.concatenate(contours)[:, 0] + 0.5
    # Pixels have an extent. With the middles of their sides, axis-aligned objects get their exact
    # size; with their corners, slanted objects would become too large.
    points = np.concatenate([centres + step for step in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
    return cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32)))


def dota_line(corners: np.ndarray, name: str, difficulty: int = 0) -> str:
    """Return a line of DOTA's text format."""
    return ' '.join(f'{value:.1f}' for value in corners.reshape(-1)) + f' {name} {difficulty}\n'
