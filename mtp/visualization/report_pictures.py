"""Pictures of a report: truth and prediction of an image side by side, and what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mtp.evaluation.report.kinds import Verdict, background_of
from mtp.evaluation.report.matching import IGNORED_OBJECT, ImageObjects
from mtp.evaluation.report.parts import LabelMaps, Part
from mtp.evaluation.tables import SHOWN_SCORE
from mtp.evaluation.tiles import corners_of
from mtp.painting import Colour, colour_of, outline, shade, write
from mtp.sample_fields import IGNORED

# Bounds of the longer side of a picture, pixels: a report holds many of them.
MIN_SIDE, MAX_SIDE = 256, 448
QUALITY = 85  # of the JPEG, 1 to 100
# Okabe and Ito's colours, which the colour-blind can tell apart.
RIGHT, MISSED, INVENTED, OTHER = (0, 158, 115), (213, 94, 0), (204, 121, 167), (230, 159, 0)
LEGEND = {'right': RIGHT, 'missed': MISSED, 'invented': INVENTED, 'taken for another class': OTHER}
GREY = (150, 150, 150)  # what is ignored


@dataclass(frozen=True)
class Case:
    """Image of a report.

    Attributes:
        name: name of the file.
        text: what is right and wrong.
        pictures: caption -> JPEG.
    """

    name: str
    text: str
    pictures: dict[str, bytes]


def draw_case(
    name: str, images: Sequence[np.ndarray], part: Part, verdict: Verdict, meta: dict[str, Any]
) -> Case:
    """Draw a tested image.

    Args:
        name: name of the file.
        images: image, or the two images of a pair, ``(H, W, 3)`` uint8 RGB.
        part: its prediction and truth in pixels of the image.
        verdict: its judgement.
        meta: ``palette`` (RGB per class) of the data set, if it has one.
    """
    content = part.content
    tiles = [_scaled(image) for image in images]
    dates = ('first date', 'second date') if len(images) == 2 else ('image',)
    pictures = dict(zip(dates, tiles))
    if isinstance(content, ImageObjects):
        scale = tiles[0].shape[0] / images[0].shape[0]
        pictures = _objects(tiles[0], content, verdict, part.classes, scale)
    elif isinstance(content, LabelMaps):
        # a palette has no colour of the background that the multi-task model adds
        palette = meta.get('palette') or ()
        colours = dict(classes=part.classes, palette=palette)
        if len(palette) < len(part.classes) and background_of(part.classes) == 0:
            colours['palette'] = [(0, 0, 0), *palette]
        pictures |= _maps(tiles[-1], content, colours)
    return Case(name, verdict.text, {text: _jpeg(tile) for text, tile in pictures.items()})


def _objects(
    tile: np.ndarray, content: ImageObjects, verdict: Verdict, classes: Sequence[str], scale: float
) -> dict[str, np.ndarray]:
    matches = verdict.matches
    assert matches is not None
    truth, found = tile.copy(), tile.copy()
    shown = content.scores >= SHOWN_SCORE
    state: dict[int, Colour] = {}
    for one in np.flatnonzero(shown).tolist():
        same, other = matches.same[one], matches.other[one]
        colour = RIGHT if same >= 0 else OTHER if other >= 0 else INVENTED
        if same == IGNORED_OBJECT:
            colour = GREY
        if max(same, other) >= 0:
            state[max(same, other)] = colour
        _box(found, content.boxes[one], scale, colour, classes[content.labels[one]])
    for one, box in enumerate(content.true_boxes):
        colour = GREY if content.ignored[one] else state.get(one, MISSED)
        _box(truth, box, scale, colour, classes[content.true_labels[one]])
    return {'truth': truth, f'prediction (score at least {SHOWN_SCORE})': found}


def _box(tile: np.ndarray, box: np.ndarray, scale: float, colour: Colour, name: str) -> None:
    """Draw a box; its name too, unless it is right."""
    corners = np.rint(corners_of(box[None])[0] * scale).astype(int)
    outline(tile, corners, colour)
    if colour in (MISSED, INVENTED, OTHER):
        left, top = corners.min(0).tolist()
        place = (max(left, 0), max(top - 4, 10))
        write(tile, name, (place[0] + 1, place[1] + 1), (0, 0, 0))
        write(tile, name, place, (255, 255, 255))


def _maps(tile: np.ndarray, content: LabelMaps, meta: dict[str, Any]) -> dict[str, np.ndarray]:
    height, width = tile.shape[:2]
    true, found = (
        cv2.resize(part.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for part in (content.true, content.found)
    )
    pictures = {}
    nothing = background_of(meta['classes'])
    for text, part in (('truth', true), ('prediction', found)):
        picture = pictures[text] = tile.copy()
        for label in set(np.unique(part).tolist()) & set(range(len(meta['classes']))):
            shade(picture, part == label, colour_of(meta, label), 0.2 if label == nothing else 0.6)
    wrong = (true != found) & (true != IGNORED)
    errors = np.repeat(tile.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    kinds = {OTHER: wrong}
    if nothing is not None:
        kinds = {MISSED: wrong & (found == nothing), INVENTED: wrong & (true == nothing)}
        kinds[OTHER] = wrong & (found != nothing) & (true != nothing)
    for colour, mask in kinds.items():
        shade(errors, mask, colour, 0.85)
    return pictures | {'errors': errors}


def _scaled(image: np.ndarray) -> np.ndarray:
    longer = max(image.shape[:2])
    scale = min(max(longer, MIN_SIDE), MAX_SIDE) / longer
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)


def _jpeg(picture: np.ndarray) -> bytes:
    _, encoded = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes()
