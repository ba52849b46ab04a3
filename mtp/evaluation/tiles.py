"""Detections of tiles, merged to those of whole images; rotated ones are written for servers.

A tile is named ``<image>__<size>__<x>___<y>``, where (x, y) is its top-left corner in pixels of the
image.
"""

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmrotate.structures.bbox import rbox2qbox
from torch import Tensor

from mtp.evaluation.submission import Submission
from mtp.ops import nms_rotated
from mtp.registry import METRICS

_TILE = re.compile(r'(?P<image>.+?)__\d+__(?P<x>-?\d+)___(?P<y>-?\d+)')

# boxes (N, 5), rotated, or (N, 4), xyxy; scores (N,); labels (N,)
Detections = tuple[Tensor, Tensor, Tensor]

# IoU above which the box of lower score is dropped: those of the heads, so that a scene is judged
# as if it had been predicted at once.
ROTATED_IOU = 0.1
HORIZONTAL_IOU = 0.5


def detections_of(instances: dict) -> Detections:
    """Return boxes, scores and labels of predicted instances, on the CPU."""
    boxes = get_box_tensor(instances['bboxes']).cpu().float()
    return boxes, instances['scores'].cpu().float(), instances['labels'].cpu()


def no_detections(sides: int) -> Detections:
    """Return no boxes, of 4 or 5 numbers."""
    return torch.zeros(0, sides), torch.zeros(0), torch.zeros(0, dtype=torch.long)


def merge_tiles(tiles: dict[str, Detections]) -> dict[str, Detections]:
    """Merge the detections of tiles, and suppress duplicates of a class.

    Args:
        tiles: detections by tile name: boxes in pixels of the tile, scores and labels. A name
            without a tile's form is that of a whole image.

    Returns:
        dict: detections by image name, boxes in pixels of the image, by falling score.
    """
    of_image: dict[str, list[Detections]] = defaultdict(list)
    for name, (boxes, scores, labels) in tiles.items():
        match = _TILE.fullmatch(name)
        if match:
            boxes = boxes.clone()
            moved = boxes[:, :2] if boxes.shape[1] == 5 else boxes.view(-1, 2, 2)
            moved += boxes.new_tensor([int(match['x']), int(match['y'])])
        of_image[match['image'] if match else name].append((boxes, scores, labels))
    merged = {}
    for image, parts in of_image.items():
        boxes, scores, labels = (torch.cat(column) for column in zip(*parts))
        keep = unsuppressed(boxes, scores, labels)
        merged[image] = boxes[keep], scores[keep], labels[keep]
    return merged


def unsuppressed(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Return the indices of the boxes that are kept, by falling score."""
    if boxes.shape[1] == 5:
        return nms_rotated(boxes, scores, ROTATED_IOU, labels)
    from torchvision.ops import nms  # here, because its import is slow

    # Class by class, and in float64: pixels of a large scene need more digits than shifted classes
    # leave in float32.
    places = [torch.nonzero(labels == label).squeeze(1) for label in labels.unique()]
    kept = [
        place[nms(boxes[place].double(), scores[place].double(), HORIZONTAL_IOU)]
        for place in places
    ]
    keep = torch.cat([torch.zeros(0, dtype=torch.long), *kept]).sort().values
    return keep[scores[keep].argsort(descending=True, stable=True)]


def corners_of(boxes: np.ndarray) -> np.ndarray:
    """Return the corners of boxes in turn, ``(N, 4, 2)``, x and y in pixels.

    Args:
        boxes: boxes ``(N, 4)``, xyxy, or rotated ones ``(N, 5)``, whose first side is along w.
    """
    if boxes.shape[1] == 4:
        x1, y1, x2, y2 = boxes.T
        return np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).reshape(-1, 4, 2)
    cx, cy, w, h, angle = boxes.T
    cos, sin = np.cos(angle) / 2, np.sin(angle) / 2
    along, across = np.stack([w * cos, w * sin], 1), np.stack([-h * sin, h * cos], 1)
    centre = np.stack([cx, cy], 1)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.stack([centre + a * along + b * across for a, b in signs], 1)


class TilesSubmission(Submission):
    """Collects mmrotate's rotated detections of tiles; a subclass writes those of whole images."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the boxes of each tile."""
        for sample in data_samples:
            found = detections_of(sample['pred_instances'])
            if found[0].shape[1] != 5:
                raise ValueError(
                    f'{sample["img_path"]}: boxes must be rotated, (N, 5), for the server '
                    f'{self.name}; got {tuple(found[0].shape)}'
                )
            self.results.append((sample['img_path'], found))

    def files(self, predictions: dict[str, Detections]) -> dict[str, str]:
        """Merge the tiles, and return the result of :meth:`files_of_images`."""
        return self.files_of_images(
            merge_tiles({Path(path).stem: found for path, found in predictions.items()})
        )

    @abstractmethod
    def files_of_images(self, images: dict[str, Detections]) -> dict[str, str]:
        """Return the content of each file by its name in the zip, given detections by image."""


@METRICS.register_module()
class DOTASubmission(TilesSubmission):
    """DOTA, Task 1: ``Task1_<class>.txt`` with lines ``<image> <score> <8 coordinates>``."""

    name = 'dota'

    def files_of_images(self, images: dict[str, Detections]) -> dict[str, str]:
        """Return one file per class, also for classes without detections."""
        classes = self.dataset_meta['classes']
        lines: dict[str, list[str]] = {name: [] for name in classes}
        for image, (boxes, scores, labels) in sorted(images.items()):
            for corners, score, label in zip(
                rbox2qbox(boxes).tolist(), scores.tolist(), labels.tolist()
            ):
                coordinates = ' '.join(f'{value:.2f}' for value in corners)
                lines[classes[label]].append(f'{image} {score:.6f} {coordinates}\n')
        return {f'Task1_{name}.txt': ''.join(of_class) for name, of_class in lines.items()}


@METRICS.register_module()
class FAIR1MSubmission(TilesSubmission):
    """FAIR1M: ``test/<image>.xml`` in the format of the data set's own labels, with probabilities.

    Class names are the publisher's: ``Small Car`` for the class ``Small-Car``.
    """

    name = 'fair1m'

    def files_of_images(self, images: dict[str, Detections]) -> dict[str, str]:
        """Return one file per image, also for images without detections."""
        return {
            f'test/{image}.xml': self._xml(image, *found) for image, found in sorted(images.items())
        }

    def _xml(self, image: str, boxes: Tensor, scores: Tensor, labels: Tensor) -> str:
        root = ElementTree.Element('annotation')
        _add(root, 'source', filename=f'{image}.tif', origin='GF2/GF3')
        _add(
            root,
            'research',
            version='1.0',
            provider='mtp',
            author='mtp',
            pluginname='FAIR1M',
            pluginclass='object detection',
        )
        objects = _add(root, 'objects')
        for corners, score, label in zip(
            rbox2qbox(boxes).tolist(), scores.tolist(), labels.tolist()
        ):
            entry = _add(
                objects, 'object', coordinate='pixel', type='rectangle', description='None'
            )
            name = self.dataset_meta['classes'][label]
            _add(
                entry,
                'possibleresult',
                probability=f'{score:.6f}',
                name=name if name.startswith('other-') else name.replace('-', ' '),
            )
            points = _add(entry, 'points')
            for x, y in zip((*corners[::2], corners[0]), (*corners[1::2], corners[1])):
                ElementTree.SubElement(points, 'point').text = f'{x:.6f},{y:.6f}'
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding='unicode', xml_declaration=True)


def _add(parent: ElementTree.Element, tag: str, **children: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    for name, text in children.items():
        ElementTree.SubElement(element, name).text = text
    return element
