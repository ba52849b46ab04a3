"""One picture of an image with the ground truth and predictions of all tasks, side by side."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement

from mtp.files import UnusableFileError, whole
from mtp.painting import INK, colour_of, write
from mtp.sample_fields import label_table

# Bounds of the longer side of a tile, pixels: images are resized to stay within.
MIN_TILE, MAX_TILE = 384, 800
MARGIN, CAPTION, LINE = 8, 22, 18
PAPER = (246, 246, 244)


def draw_sample(
    image: np.ndarray, sample: DetDataSample, meta: dict, score_thr: float = 0.3
) -> np.ndarray:
    """Draw ground truth (upper row) and predictions (lower row) of each task beside the image.

    The label table defines how each task is drawn. Tasks and rows that are missing in the sample
    are left out.

    Args:
        image: image ``(H, W, 3)``, uint8 RGB.
        sample: sample with ``gt_*`` and ``pred_*`` fields, in pixels of ``image``.
        meta: ``classes`` and perhaps ``palette`` (RGB per class) of the sample's data set.
        score_thr: smallest score of predicted objects that are drawn, 0..1.

    Returns:
        ndarray: picture ``(H, W, 3)``, uint8 RGB.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, MIN_TILE), MAX_TILE) / longer
    tile = cv2.resize(
        image,
        None,
        fx=scale,
        fy=scale,
        interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA,
    )
    rows = {'gt': 'truth', 'pred': 'prediction'}
    table = label_table()
    fields = {
        task: {row: sample.get(f'{row}_{label.name}') for row in rows}
        for task, label in table.items()
    }
    rows = {
        row: caption
        for row, caption in rows.items()
        if any(found[row] is not None for found in fields.values())
    }
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
                content, caption = _certain(content, score_thr, caption)
                labels |= table[task].draw(drawn, content, scale, meta)
            column.append(captioned(drawn, f'{task}: {caption}'))
        columns.append(np.concatenate(column))
    first = [captioned(tile, 'image'), legend(labels, meta, tile.shape[1] + MARGIN)]
    return frame([np.concatenate(first), *columns])


def _certain(
    content: BaseDataElement, score_thr: float, caption: str
) -> tuple[BaseDataElement, str]:
    """Leave out predicted objects with a score below ``score_thr``, and say how many."""
    if 'scores' not in content:
        return content, caption
    shown = content[content.scores >= score_thr]
    hidden = len(content) - len(shown)
    return shown, f'{caption}, {len(shown)} shown, {hidden} below {score_thr:g}'


def captioned(tile: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text above a tile, uint8 RGB."""
    canvas = np.full((tile.shape[0] + CAPTION, tile.shape[1] + MARGIN, 3), PAPER, np.uint8)
    canvas[CAPTION:, : tile.shape[1]] = tile
    write(canvas, text, (1, CAPTION - 7), INK)
    return canvas


def legend(labels: Iterable[int], meta: dict, width: int) -> np.ndarray:
    """Draw the colours and names of classes, uint8 RGB ``(H, width, 3)``."""
    labels = sorted(labels)
    canvas = np.full((CAPTION + LINE * len(labels), width, 3), PAPER, np.uint8)
    for number, label in enumerate(labels):
        y = CAPTION + LINE * number
        cv2.rectangle(canvas, (0, y), (12, y + 12), colour_of(meta, label), cv2.FILLED)
        cv2.rectangle(canvas, (0, y), (12, y + 12), INK, 1)  # an outline: white is visible on paper
        write(canvas, meta['classes'][label], (19, y + 10), INK)
    return canvas


def frame(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Put columns side by side within a margin, and pad short ones."""
    height = MARGIN + max(len(column) for column in columns)
    canvas = np.full(
        (height, MARGIN + sum(column.shape[1] for column in columns), 3), PAPER, np.uint8
    )
    x = MARGIN
    for column in columns:
        canvas[: len(column), x : x + column.shape[1]] = column
        x += column.shape[1]
    return canvas


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture atomically, in the format of the file's suffix.

    Args:
        path: file to write; its folder is made.
        picture: uint8 RGB ``(H, W, 3)``.

    Raises:
        UnusableFileError: the suffix is of no format of pictures.
    """
    path = Path(path)
    if not cv2.haveImageWriter(path.name):
        raise UnusableFileError(f'{path}: a picture is a .png or .jpg file')
    _, encoded = cv2.imencode(path.suffix, picture[..., ::-1])
    with whole(path) as unfinished:
        unfinished.write_bytes(encoded.data)
