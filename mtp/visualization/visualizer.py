"""One picture of an image: truth and predictions of all tasks, side by side."""
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from mmrotate.structures import RotatedBoxes

from mtp.sample_fields import IGNORED

# Longer side of a tile in pixels: small images are enlarged, large ones reduced to stay within.
MIN_TILE, MAX_TILE = 384, 800
MARGIN, CAPTION, LINE = 8, 22, 18
FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
WHITE, INK, PAPER = (255, 255, 255), (30, 30, 30), (246, 246, 244)

Colour = tuple[int, int, int]


def draw_sample(image: np.ndarray, sample: DetDataSample, meta: dict, score_thr: float = 0.3
                ) -> np.ndarray:
    """Draw truth (upper row) and predictions (lower row) of each task beside the image.

    Semantic maps are laid over the image; instances are boxes, with masks if there are any;
    rotated boxes are polygons with a white edge where their angle points (le90: an end of the long
    side). A task or a row that the sample lacks is left out.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        sample: with ``gt_*`` and ``pred_*`` fields, in pixels of ``image``.
        meta: ``classes`` and ``palette`` (RGB per class) of its data set.
        score_thr: predicted objects of a lower score are not drawn.

    Returns:
        ndarray: uint8 RGB.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, MIN_TILE), MAX_TILE) / longer
    tile = cv2.resize(image, None, fx=scale, fy=scale,
                      interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    rows = {'gt': 'truth', 'pred': 'prediction'}
    fields = {task: {row: _drawn(sample.get(f'{row}_{field}'), score_thr) for row in rows}
              for task, (field, _) in TASKS.items()}
    rows = {row: caption for row, caption in rows.items()
            if any(found[row] is not None for found in fields.values())}
    labels = set()
    columns = []
    for task, found in fields.items():
        if all(content is None for content in found.values()):
            continue
        column = []
        for row, caption in rows.items():
            content, drawn = found[row], tile.copy()
            if content is None:
                drawn[:] = PAPER
                caption = f'no {caption}'
            else:
                labels |= TASKS[task][1](drawn, content, scale, meta)
            column.append(captioned(drawn, f'{task}: {caption}'))
        columns.append(np.concatenate(column))
    first = [captioned(tile, 'image'), legend(labels, meta, tile.shape[1] + MARGIN)]
    return frame([np.concatenate(first), *columns])


def _drawn(content, score_thr: float):
    """Instances by falling area, so that small ones stay visible, without the doubtful ones."""
    if not isinstance(content, InstanceData):
        return content
    if 'scores' in content:
        content = content[content.scores >= score_thr]
    boxes = get_box_tensor(content.bboxes)
    sides = boxes[:, 2:4] if boxes.shape[1] == 5 else boxes[:, 2:] - boxes[:, :2]
    return content[sides.prod(1).argsort(descending=True).cpu()]


def _semantic(tile: np.ndarray, content, scale: float, meta: dict) -> set[int]:
    seg_map = content.sem_seg.squeeze(0).cpu().numpy().astype(np.uint8)
    seg_map = cv2.resize(seg_map, tile.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    labels = {int(value) - 1 for value in np.unique(seg_map) if value not in (0, IGNORED)}
    for label in labels:
        shade(tile, seg_map == label + 1, meta['palette'][label], 0.6)
    return labels


def _instances(tile: np.ndarray, content: InstanceData, scale: float, meta: dict) -> set[int]:
    masks = content.get('masks', ())  # data sets for detection alone have none
    masks = masks.cpu().numpy() if isinstance(masks, torch.Tensor) else getattr(masks, 'masks', ())
    boxes = (get_box_tensor(content.bboxes).cpu().numpy() * scale).round().astype(int)
    for label, mask in zip(content.labels.tolist(), masks):
        mask = cv2.resize(mask.astype(np.uint8), tile.shape[1::-1],
                          interpolation=cv2.INTER_NEAREST)
        shade(tile, mask > 0, meta['palette'][label], 0.5)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, contours, -1, WHITE, 1, cv2.LINE_AA)
    for label, (x1, y1, x2, y2) in zip(content.labels.tolist(), boxes):
        corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
        _outline(tile, corners, meta['palette'][label])
    _name(tile, content, boxes[:, :2], meta)
    return set(content.labels.tolist())


def _rotated(tile: np.ndarray, content: InstanceData, scale: float, meta: dict) -> set[int]:
    boxes = RotatedBoxes(get_box_tensor(content.bboxes).float().cpu()).regularize_boxes('le90')
    corners = (RotatedBoxes.rbox2corner(boxes).numpy() * scale).round().astype(int)
    for label, polygon in zip(content.labels.tolist(), corners):
        _outline(tile, polygon, meta['palette'][label])
        # rbox2corner starts with the two corners on the side of +w
        cv2.line(tile, polygon[0].tolist(), polygon[1].tolist(), WHITE, 2, cv2.LINE_AA)
    tops = corners[np.arange(len(corners)), corners[:, :, 1].argmin(axis=1)]
    _name(tile, content, tops, meta)
    return set(content.labels.tolist())


# Task -> field of the sample, without gt_ or pred_; how it is drawn (gives the labels in it).
TASKS = {'semantic': ('sem_seg', _semantic), 'instance': ('instances', _instances),
         'rotated': ('rotated_instances', _rotated)}


def shade(tile: np.ndarray, mask: np.ndarray, colour: Colour, strength: float) -> None:
    """Lay a colour over a tile, uint8 RGB, where a mask is true; a strength of 1 hides the tile."""
    tile[mask] = (1 - strength) * tile[mask] + strength * np.array(colour)


def _outline(tile: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    # dark colours of a palette show on a dark ground through the pale line around them
    cv2.polylines(tile, [corners], True, WHITE, 3, cv2.LINE_AA)
    cv2.polylines(tile, [corners], True, colour, 2, cv2.LINE_AA)


def _name(tile: np.ndarray, content: InstanceData, places: np.ndarray, meta: dict) -> None:
    """Write class and score on a plate above each ``(x, y)``, inside the tile."""
    scores = content.scores.tolist() if 'scores' in content else [None] * len(content)
    for label, score, (x, y) in zip(content.labels.tolist(), scores, places.tolist()):
        text = meta['classes'][label] + ('' if score is None else f' {score:.2f}')
        (width, height), _ = cv2.getTextSize(text, FONT, FONT_SIZE, 1)
        x = max(0, min(x, tile.shape[1] - width - 4))
        y = max(height + 5, min(y, tile.shape[0]))
        colour = meta['palette'][label]
        cv2.rectangle(tile, (x, y - height - 5), (x + width + 4, y), colour, cv2.FILLED)
        _write(tile, text, (x + 2, y - 3), _readable_on(colour))


def _write(canvas: np.ndarray, text: str, place: tuple[int, int], colour: Colour) -> None:
    cv2.putText(canvas, text, place, FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)


def _readable_on(colour: Colour) -> Colour:
    return INK if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else WHITE


def captioned(tile: np.ndarray, text: str) -> np.ndarray:
    """A tile, uint8 RGB, with a line of text above."""
    canvas = np.full((tile.shape[0] + CAPTION, tile.shape[1] + MARGIN, 3), PAPER, np.uint8)
    canvas[CAPTION:, :tile.shape[1]] = tile
    _write(canvas, text, (1, CAPTION - 7), INK)
    return canvas


def legend(labels: Iterable[int], meta: dict, width: int) -> np.ndarray:
    """Colours and names of classes, uint8 RGB ``(H, width, 3)``."""
    labels = sorted(labels)
    canvas = np.full((CAPTION + LINE * len(labels), width, 3), PAPER, np.uint8)
    for number, label in enumerate(labels):
        y = CAPTION + LINE * number
        cv2.rectangle(canvas, (0, y), (12, y + 12), meta['palette'][label], cv2.FILLED)
        cv2.rectangle(canvas, (0, y), (12, y + 12), INK, 1)  # white shows on paper
        _write(canvas, meta['classes'][label], (19, y + 10), INK)
    return canvas


def frame(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns side by side, the short ones filled up, within a margin."""
    height = MARGIN + max(len(column) for column in columns)
    canvas = np.full((height, MARGIN + sum(column.shape[1] for column in columns), 3), PAPER,
                     np.uint8)
    x = MARGIN
    for column in columns:
        canvas[:len(column), x:x + column.shape[1]] = column
        x += column.shape[1]
    return canvas
