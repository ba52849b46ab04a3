"""Formats of label files that hold the boxes of an image each: one parser for each format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mtp.data.formats.base import Box, Size, usable
from mtp.data.formats.dota_text import read_dota
from mtp.data.formats.object_xml import read_dior_r, read_fair1m, read_voc
from mtp.data.formats.yolo_text import read_yolo, read_yolo_obb


@dataclass(frozen=True)
class BoxFormat:
    """A format of label files.

    Attributes:
        read: function of the label file, and of the height and width of its image in pixels, that
            yields the boxes.
        suffix: suffix of a label file.
        rotated: whether its boxes are rotated; else they are parallel to the image's sides.
        numbered: whether a box has the index of its class. An image without objects then needs no
            label file: this is so in YOLO's formats, and in no other.
    """

    read: Callable[..., Iterator[Box]]
    suffix: str
    rotated: bool
    numbered: bool = False


FORMATS = {
    'dota': BoxFormat(read_dota, '.txt', rotated=True),
    'yolo': BoxFormat(read_yolo, '.txt', rotated=False, numbered=True),
    'yolo_obb': BoxFormat(read_yolo_obb, '.txt', rotated=True, numbered=True),
    'voc': BoxFormat(read_voc, '.xml', rotated=False),
    'dior_r': BoxFormat(read_dior_r, '.xml', rotated=True),
    'fair1m': BoxFormat(read_fair1m, '.xml', rotated=True),
}

__all__ = ['FORMATS', 'Box', 'BoxFormat', 'Size', 'usable']
