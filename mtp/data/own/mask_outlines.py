"""Masks of objects as run lengths, and the boxes around them."""

from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.own.contents import LabelledObject, Sample
from mtp.data.own.rasters import Window
from mtp.data.prepare.base import Report
from mtp.data.run_lengths import Axis, crop_masks, encode_mask, read_counts
from mtp.data.samrs.to_coco import rectangle


def encode(each: LabelledObject, size: tuple[int, int], report: Report) -> dict | None:
    """Return the mask of an object as run lengths; None, reported, if it cannot be used."""
    try:
        rle = encode_mask(each.mask, *size)
    except ValueError as error:
        report.bad.append(f'{each.box.place}: the mask cannot be read: {error}')
        return None
    if not coco_mask.area(rle):
        report.left_out['objects with an empty mask'] += 1
        return None
    return rle


def crop(rle: dict, window: Window) -> np.ndarray:
    """Cut a tile out of a mask, uint8 ``(side, side)``, without painting all of it."""
    x, y, side = window
    height, width = rle['size']
    counts = np.frombuffer(rle['counts'], np.uint8)
    rows = Axis(np.arange(y, min(y + side, height)), height)
    columns = Axis(np.arange(x, min(x + side, width)), width)
    _, boxes, pixels = crop_masks(
        read_counts(counts, np.array([len(counts)]), height), rows, columns
    )
    mask = np.zeros((side, side), np.uint8)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = pixels.reshape(x2 - x1, y2 - y1).T
    return mask


def with_rectangles(sample: Sample, report: Report) -> Sample:
    """Return an image whose objects with a mask have the rectangle around it as their box."""
    if not any(each.mask for each in sample.objects):
        return sample
    objects = []
    for each in sample.objects:
        corners = each.rotated
        if corners is None:
            rle = encode(each, sample.size, report)
            if rle is None:
                continue
            corners = _rectangle(rle)
        objects.append(replace(each, box=replace(each.box, corners=corners)))
    return replace(sample, objects=tuple(objects))


def with_outlines(sample: Sample, report: Report) -> Sample:
    """Return an image whose objects with a mask have the boxes around it, also the rotated one."""
    objects = []
    for each in sample.objects:
        if each.mask:
            rle = encode(each, sample.size, report)
            if rle is None:
                continue
            left, top, width, height = coco_mask.toBbox(rle)
            corners = _corners(left, top, left + width, top + height)
            rotated = _rectangle(rle) if each.rotated is None else each.rotated
            each = replace(each, box=replace(each.box, corners=corners), rotated=rotated)
        objects.append(each)
    return replace(sample, objects=tuple(objects))


def outlined(each: LabelledObject, rotated: bool) -> LabelledObject:
    """Return an object with a horizontal box and, if it is known, a rotated one.

    Args:
        each: object of :func:`with_outlines`.
        rotated: whether the box of an object without a mask is rotated.
    """
    if each.mask:
        return each
    corners = each.box.corners
    horizontal = _corners(*corners.min(0), *corners.max(0))
    return replace(
        each,
        box=replace(each.box, corners=horizontal),
        rotated=corners if rotated else None,
    )


def _corners(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _rectangle(rle: dict) -> np.ndarray:
    """Return the corners of the rectangle around a mask, painting no more than its box."""
    left, top, width, height = coco_mask.toBbox(rle).astype(int).tolist()
    return rectangle(crop(rle, (left, top, max(width, height)))) + (left, top)
