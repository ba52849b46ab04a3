"""Rows of the table of labels for mtp's own tasks; see :mod:`mtp.sample_fields`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import to_tensor
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures import QuadriBoxes, RotatedBoxes
from torch import Tensor

from mtp.data.decoding import read_map
from mtp.data.index import BytesColumn, Column
from mtp.data.rotated_labels import read_rotated
from mtp.data.run_lengths import (
    compress_mask,
    crop_map,
    crop_masks,
    decode_mask,
    find_damage,
    read_counts,
)
from mtp.data.values import MAX_COORDINATE, check_map_values
from mtp.files import UnusableFileError
from mtp.painting import WHITE, colour_of, outline, shade, write_names
from mtp.registry import LABELS
from mtp.sample_fields import IGNORED, Boxes, BoxMasks, Label, Map


@LABELS.register_module()
class SemanticLabel(Label):
    """The semantic map: 0 = background, class i -> i + 1, 255 = ignored.

    On disk, class i is i, 254 is ignored, 255 is background.

    ``load`` and ``crop`` add ``gt_seg_map``, uint8 ``(H, W)``. They raise ValueError if the map is
    missing or damaged, differs in size from the image, or holds a value that is not a class.
    """

    task = 'semantic'
    name = 'sem_seg'
    key = 'gt_seg_map'
    fields = {'gt_sem_seg': Map('sem_seg', padding=IGNORED, dtype=torch.uint8)}
    reads_files = True

    def paths(self, dataset: Any, stem: str) -> dict[str, str]:
        """Return the map's path."""
        return dict(seg_map_path=str(dataset.root / dataset.subset.semantic / f'{stem}.png'))

    def load(self, results: dict) -> None:
        """Read the whole map."""
        results[self.key] = read_labels(results, tuple(results['ori_shape']))

    def crop(self, results: dict, window: Any) -> None:
        """Read the map, or the runs of a packed one, and sample it."""
        rows, columns = window.axes
        if 'map_runs' in results:
            results[self.key] = crop_map(results['map_runs'], rows, columns)
        else:
            loaded = _read_map(results, window.original)
            shown = np.take(loaded[rows.source], columns.source, axis=1)
            results[self.key] = _as_labels(shown, results)

    def pack(self, results: dict) -> dict[str, PixelData]:
        """Return ``gt_sem_seg``: ``sem_seg``, uint8 ``(1, H, W)``."""
        return dict(gt_sem_seg=PixelData(sem_seg=torch.from_numpy(results[self.key])[None]))

    def draw(self, tile: np.ndarray, content: PixelData, scale: float, meta: dict) -> set[int]:
        """Blend the map into the image."""
        seg_map = content.sem_seg.squeeze(0).cpu().numpy().astype(np.uint8)
        seg_map = cv2.resize(seg_map, tile.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        labels = {int(value) - 1 for value in np.unique(seg_map) if value not in (0, IGNORED)}
        for label in labels:
            shade(tile, seg_map == label + 1, colour_of(meta, label), 0.6)
        return labels


def read_labels(record: dict, shape: tuple[int, int]) -> np.ndarray:
    """Read a label map, uint8 ``(H, W)``: 0 = background, class i -> i + 1.

    Args:
        record: record of an image.
        shape: height and width of the image in pixels.

    Raises:
        ValueError: the map is missing or damaged, has another shape, or holds a value that is not
            a class.
    """
    return _as_labels(_read_map(record, shape), record)


def _read_map(record: dict, shape: tuple[int, int]) -> np.ndarray:
    loaded = read_map(record['seg_map_path'], shape)
    if loaded.shape != shape:
        raise UnusableFileError(
            f'{record["seg_map_path"]} has shape {loaded.shape}, but '
            f'{record["img_path"]} has {shape}: it must be grey and of the same size'
        )
    return loaded


def _as_labels(values: np.ndarray, record: dict) -> np.ndarray:
    check_map_values(values, record['seg_map_path'])
    # uint8 wraps around: the file's background, 255, becomes 0; 254 becomes IGNORED
    labels = values.astype(np.uint8) + np.uint8(1)
    if labels.max(initial=0) > record['num_classes']:
        unknown = labels[(labels > record['num_classes']) & (labels != IGNORED)]
        if unknown.size:
            raise UnusableFileError(
                f'{record["seg_map_path"]} holds the value {int(unknown.max()) - 1}, but '
                f'the data set has {record["num_classes"]} classes: 0 to '
                f'{record["num_classes"] - 1}, 254 for ignored pixels and 255 for background'
            )
    return labels


@LABELS.register_module()
class InstanceLabel(Label):
    """Boxes with masks; crowds are neither positive nor negative samples.

    ``load`` and ``crop`` add mmdet's ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags`` and
    ``gt_masks``; the boxes of a crop are those of the visible parts of the masks. In a data set
    without masks, the pixels of a box stand for its mask.
    """

    task = 'instance'
    name = 'instances'
    key = 'gt_bboxes'
    fields = {
        'gt_instances': Boxes(HorizontalBoxes, masks=True),
        'ignored_instances': Boxes(HorizontalBoxes),
    }
    columns = {
        'boxes': Column('object', np.float32, (4,)),  # xyxy in pixels
        'labels': Column('object', np.int64),  # from 0
        'crowd': Column('object', bool),
        'counts': BytesColumn('object'),  # COCO's compressed run lengths
    }

    def read(self, dataset: Any, image: dict, annotations: list[dict]) -> dict[str, Any]:
        """Convert the objects of the json."""
        make = _counts if dataset.masks else _counts_of_box
        counts = [make(a, image, dataset.ann_file) for a in annotations]
        damage = find_damage(counts, image['height'] * image['width'])
        if damage is not None:
            raise _unusable(annotations[damage[0]], image, dataset.ann_file, damage[1])
        return dict(
            boxes=np.array([_xyxy(a['bbox']) for a in annotations], np.float32).reshape(-1, 4),
            labels=np.array([a['label'] for a in annotations], np.int64),
            crowd=np.array([a.get('iscrowd', 0) for a in annotations], bool),
            counts=counts,
        )

    def check(self, entry: Any, num_classes: int) -> None:
        """Check labels, boxes and masks."""
        _check_values(entry.labels, entry.boxes, num_classes)
        damage = find_damage(entry.counts, entry.size[0] * entry.size[1])
        if damage is not None:
            raise ValueError(f'mask {damage[0]} of {entry.file_name}: {damage[1]}')

    def load(self, results: dict) -> None:
        """Decode the masks; clip the boxes to the image."""
        entry, shape = results['labels'], results['ori_shape']
        results['gt_bboxes'] = HorizontalBoxes(entry.boxes)
        results['gt_bboxes'].clip_(shape)
        results['gt_bboxes_labels'] = entry.labels
        results['gt_ignore_flags'] = entry.crowd
        masks = [decode_mask(dict(size=shape, counts=c), *shape) for c in entry.counts]
        results['gt_masks'] = BitmapMasks(masks, *shape)

    def crop(self, results: dict, window: Any) -> bool:
        """Sample the masks; reject the crop if it has boxes, but no pixel of their masks."""
        entry = results['labels']
        reach = np.flatnonzero(window.overlapping(entry.boxes))
        counts = [entry.counts[i] for i in reach]
        runs = read_counts(
            np.frombuffer(b''.join(counts), np.uint8),
            np.cumsum([len(c) for c in counts], dtype=np.int64),
            entry.size[0],
        )
        seen, boxes, pixels = crop_masks(runs, *window.axes)
        reach = reach[seen]
        results['gt_bboxes'] = HorizontalBoxes(boxes.astype(np.float32), clone=False)
        results['gt_bboxes_labels'] = entry.labels[reach]
        results['gt_ignore_flags'] = entry.crowd[reach]
        results['gt_masks'] = BoxMasks(boxes, pixels, window.shape)
        return len(counts) > 0 and len(reach) == 0

    def pack(self, results: dict) -> dict[str, InstanceData]:
        """Return ``gt_instances`` and the crowds, ``ignored_instances``."""
        ignore = results['gt_ignore_flags']
        # crowds are rare, and a slice is cheaper than a bool mask
        parts = (~ignore, ignore) if ignore.any() else (slice(None), slice(0))
        return {
            name: InstanceData(
                bboxes=results['gt_bboxes'][part],
                labels=to_tensor(results['gt_bboxes_labels'][part]),
                masks=results['gt_masks'][part],
            )
            for name, part in zip(self.fields, parts)
        }

    def draw(self, tile: np.ndarray, content: InstanceData, scale: float, meta: dict) -> set[int]:
        """Draw boxes with their names, and their masks, if any."""
        boxes = get_box_tensor(content.bboxes)
        content = _largest_first(content, (boxes[:, 2:] - boxes[:, :2]).prod(1))
        masks = content.get('masks', ())  # detection data sets have no masks
        masks = masks.cpu().numpy() if isinstance(masks, Tensor) else getattr(masks, 'masks', ())
        boxes = (get_box_tensor(content.bboxes).cpu().numpy() * scale).round().astype(int)
        for label, mask in zip(content.labels.tolist(), masks):
            mask = cv2.resize(
                mask.astype(np.uint8), tile.shape[1::-1], interpolation=cv2.INTER_NEAREST
            )
            shade(tile, mask > 0, colour_of(meta, label), 0.5)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, contours, -1, WHITE, 1, cv2.LINE_AA)
        for label, (x1, y1, x2, y2) in zip(content.labels.tolist(), boxes):
            corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
            outline(tile, corners, colour_of(meta, label))
        write_names(tile, content, boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2, meta)
        return set(content.labels.tolist())


def _largest_first(content: InstanceData, areas: Tensor) -> InstanceData:
    """Sort objects by area, descending, so that small ones are drawn on top."""
    return content[areas.argsort(descending=True).cpu()]


def _check_values(labels: np.ndarray, boxes: np.ndarray, num_classes: int) -> None:
    """Check the values of boxes and their labels.

    Raises:
        ValueError: a label is no class, or a number is not finite or larger than any image.
    """
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= num_classes:
        raise ValueError(f'labels of {labels.min()} to {labels.max()}, but {num_classes} classes')
    if not (np.abs(boxes) <= 4 * MAX_COORDINATE).all():  # sides and diagonals are longer
        raise ValueError('a box has numbers that are not finite, or larger than any image')


def _xyxy(box: Sequence[float]) -> tuple[float, ...]:
    x, y, w, h = box
    return x, y, x + w, y + h


def _counts(annotation: dict, image: dict, path: str) -> bytes:
    """Return the compressed run lengths of an annotation's mask, which are to be checked."""
    size = image['height'], image['width']
    try:
        return compress_mask(annotation.get('segmentation'), *size)['counts']
    except ValueError as error:
        raise _unusable(annotation, image, path, str(error)) from error


def _counts_of_box(annotation: dict, image: dict, path: str) -> bytes:
    """Return the compressed run lengths of the pixels in an annotation's box, at least one."""
    height, width = image['height'], image['width']
    x1, y1, x2, y2 = (math.floor(value + 0.5) for value in _xyxy(annotation['bbox']))
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    x2, y2 = max(min(x2, width), x1 + 1), max(min(y2, height), y1 + 1)
    across, down = x2 - x1, y2 - y1
    # column by column: the pixels above, those inside, those below and above the next column
    runs = [x1 * height + y1, *[down, height - down] * (across - 1), down]
    runs.append(height * width - sum(runs))
    return compress_mask(dict(size=[height, width], counts=runs), height, width)['counts']


def _unusable(annotation: dict, image: dict, path: str, reason: str) -> UnusableFileError:
    return UnusableFileError(
        f'{path}, annotation {annotation["id"]} of {image["file_name"]}: {reason}. Correct or '
        'remove it'
    )


@LABELS.register_module()
class RotatedLabel(Label):
    """Rotated boxes: cx, cy, w, h in pixels, angle in radians, clockwise on screen.

    ``load`` and ``crop`` add ``gt_rotated_bboxes`` and ``gt_rotated_bboxes_labels``. A crop keeps
    the boxes whose centre is inside it, and does not clip them.
    """

    task = 'rotated'
    name = 'rotated_instances'
    key = 'gt_rotated_bboxes'
    fields = {'gt_rotated_instances': Boxes(RotatedBoxes)}
    columns = {
        'rotated': Column('rotated', np.float32, (5,)),
        'rotated_labels': Column('rotated', np.int64),  # from 0
    }

    def sources(self, dataset: Any) -> list[Path]:
        """Return the folder of the rotated-box files."""
        return [dataset.root / dataset.subset.rotated]

    def read(self, dataset: Any, image: dict, annotations: list[dict]) -> dict[str, np.ndarray]:
        """Read the image's rotated-box file."""
        (folder,) = self.sources(dataset)
        name = Path(image['file_name']).stem + dataset.subset.rotated_suffix
        size = image['height'], image['width']
        boxes = read_rotated(folder / name, dataset.labels, dataset.tally, size)
        return dict(
            rotated=to_rotated([box['bbox'] for box in boxes]),
            rotated_labels=np.array([box['bbox_label'] for box in boxes], np.int64),
        )

    def check(self, entry: Any, num_classes: int) -> None:
        """Check labels and boxes."""
        _check_values(entry.rotated_labels, entry.rotated, num_classes)
        if entry.rotated[:, 2:4].min(initial=0) < 0:
            raise ValueError('a rotated box has a negative side')

    def load(self, results: dict) -> None:
        """Convert the boxes of the index."""
        results['gt_rotated_bboxes'] = RotatedBoxes(results['labels'].rotated)
        results['gt_rotated_bboxes_labels'] = results['labels'].rotated_labels

    def crop(self, results: dict, window: Any) -> None:
        """Keep the boxes that have their centre in the crop."""
        entry = results['labels']
        boxes, kept = window.crop_rotated(entry.rotated)
        results['gt_rotated_bboxes'] = RotatedBoxes(boxes, clone=False)
        results['gt_rotated_bboxes_labels'] = entry.rotated_labels[kept]

    def flip(self, results: dict) -> None:
        """Flip the boxes."""
        results['gt_rotated_bboxes'].flip_(
            results['img'].shape[:2], direction=results['flip_direction']
        )

    def resize(self, results: dict) -> None:
        """Resize the boxes."""
        results['gt_rotated_bboxes'].rescale_(results['scale_factor'])

    def cut(self, results: dict) -> None:
        """Move the boxes; keep those that have their centre in the crop."""
        boxes = results['gt_rotated_bboxes']
        boxes.translate_(results['homography_matrix'][:2, 2].tolist())
        inside = boxes.is_inside(results['img_shape']).numpy()
        results['gt_rotated_bboxes'] = boxes[inside]
        results['gt_rotated_bboxes_labels'] = results['gt_rotated_bboxes_labels'][inside]

    def pack(self, results: dict) -> dict[str, InstanceData]:
        """Return ``gt_rotated_instances``."""
        return dict(
            gt_rotated_instances=InstanceData(
                bboxes=RotatedBoxes(results['gt_rotated_bboxes'].tensor, clone=False),
                labels=to_tensor(results['gt_rotated_bboxes_labels']),
            )
        )

    def draw(self, tile: np.ndarray, content: InstanceData, scale: float, meta: dict) -> set[int]:
        """Draw polygons with their names, and a white edge where the angle points (le90)."""
        content = _largest_first(content, get_box_tensor(content.bboxes)[:, 2:4].prod(1))
        boxes = RotatedBoxes(get_box_tensor(content.bboxes).float().cpu()).regularize_boxes('le90')
        corners = (RotatedBoxes.rbox2corner(boxes).numpy() * scale).round().astype(int)
        for label, polygon in zip(content.labels.tolist(), corners):
            outline(tile, polygon, colour_of(meta, label))
            # rbox2corner starts with the two corners on the side of +w
            cv2.line(tile, polygon[0].tolist(), polygon[1].tolist(), WHITE, 2, cv2.LINE_AA)
        tops = corners[np.arange(len(corners)), corners[:, :, 1].argmin(axis=1)]
        write_names(tile, content, tops, corners.mean(axis=1), meta)
        return set(content.labels.tolist())


def to_rotated(corners: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the smallest rotated boxes around four corners (8 coordinates) each, ``(n, 5)``.

    The boxes are float32: cx, cy, w, h in pixels, angle in radians.
    """
    quads = torch.tensor(corners, dtype=torch.float32).reshape(-1, 8)
    return QuadriBoxes(quads).convert_to('rbox').tensor.reshape(-1, 5).numpy()
