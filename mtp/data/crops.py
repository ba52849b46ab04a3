"""Training crops: flip, resize and crop in one step that computes only what the crop shows."""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from mmcv.image import rescale_size
from mmcv.transforms import BaseTransform

from mtp.data.decoding import check_shape, read_image
from mtp.data.run_lengths import Axis
from mtp.registry import TRANSFORMS
from mtp.sample_fields import find_labels

# flip_direction -> whether x and y are mirrored
MIRRORED = {
    'horizontal': (True, False),
    'vertical': (False, True),
    'diagonal': (True, True),
    None: (False, False),
}


@TRANSFORMS.register_module()
class LoadCrop(BaseTransform):
    """Load a random crop of an image with its labels: the recipe's flip, resize, crop and filter.

    Equal, for the same random numbers, to these transforms in this order: :class:`LoadImage`,
    :class:`LoadLabels`, :class:`Flip` (horizontal, vertical or diagonal with probability 1/4 each),
    mmcv's ``RandomResize`` with :class:`Resize`, :class:`Crop`, :class:`FilterInstances`. Boxes,
    masks and label maps are the same; the image is the same up to one grey level. The crop is drawn
    first; labels are sampled inside it, never at full size. The image is decoded last, unless the
    crop is rejected.

    Adds ``img`` (uint8 BGR) and the keys of these transforms; masks are
    :class:`mtp.sample_fields.BoxMasks`. Returns None, so that another image is drawn, if the crop
    has boxes but no pixel of their masks.

    Args:
        size: side in pixels of the crop, and of the square that an image fits into at ratio 1.
        ratio_range: smallest and largest resize ratio, relative to ``size``.

    Raises:
        ValueError: an image or label map is missing or damaged, differs in size from its labels, or
            holds a value that is not a class.
    """

    def __init__(self, size: int, ratio_range: tuple[float, float] = (0.5, 2.0)) -> None:
        self.size = size
        self.ratio_range = ratio_range

    def transform(self, results: dict) -> dict | None:
        """Load a crop."""
        size = results['labels'].size
        window = self._draw(size)
        results.update(
            ori_shape=size,
            img_shape=window.shape,
            flip=window.direction is not None,
            flip_direction=window.direction,
            scale_factor=window.scale_factor,
        )
        labels = sorted(find_labels(results['tasks']), key=lambda label: label.reads_files)
        if any(label.crop(results, window) for label in labels):
            return None
        results['img'] = _load_image(results, window)
        return results

    def _draw(self, size: tuple[int, int]) -> 'Window':
        # These draws are those of the separate transforms, in their order.
        direction = ('horizontal', 'vertical', 'diagonal', None)[int(4 * np.random.random_sample())]
        low, high = self.ratio_range
        target = int(self.size * (np.random.random_sample() * (high - low) + low))
        width, height = rescale_size(size[::-1], (target, target))
        shape = min(self.size, height), min(self.size, width)
        top, left = (
            int(np.random.randint(0, whole - part + 1))
            for whole, part in zip((height, width), shape)
        )
        return Window(size, direction, (height, width), (top, left), shape)


@dataclass(frozen=True)
class Window:
    """Geometry of a crop; all pairs are (row, column) or (height, width), in pixels.

    Attributes:
        original: size of the image.
        direction: direction in which the image is flipped first; None for no flip.
        resized: size to which the flipped image is resized.
        offset: top-left corner of the crop in the resized image.
        shape: size of the crop.
    """

    original: tuple[int, int]
    direction: str | None
    resized: tuple[int, int]
    offset: tuple[int, int]
    shape: tuple[int, int]

    @property
    def scale_factor(self) -> tuple[float, float]:
        """Scale factors of width and height."""
        (height, width), (new_height, new_width) = self.original, self.resized
        return new_width / width, new_height / height

    @property
    def mirrored(self) -> tuple[bool, bool]:
        """Whether x and y are mirrored."""
        return MIRRORED[self.direction]

    @functools.cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """Row and column of the original that each row and column of the crop shows."""
        rows, columns = (
            Axis(_nearest(size, resized, mirrored)[offset : offset + length], size)
            for size, resized, mirrored, offset, length in zip(
                self.original, self.resized, self.mirrored[::-1], self.offset, self.shape
            )
        )
        return rows, columns

    def overlapping(self, boxes: np.ndarray) -> np.ndarray:
        """Return which boxes (float32 ``(n, 4)``, xyxy) overlap the crop, bool ``(n,)``."""
        (height, width), (top, left), shape = self.original, self.offset, self.shape
        x, y = boxes[:, 0::2].clip(0, width), boxes[:, 1::2].clip(0, height)
        if self.mirrored[0]:
            x = width - x[:, ::-1]
        if self.mirrored[1]:
            y = height - y[:, ::-1]
        scale_x, scale_y = np.array(self.scale_factor, np.float32)
        x = (x * scale_x).clip(0, self.resized[1]) - np.float32(left)
        y = (y * scale_y).clip(0, self.resized[0]) - np.float32(top)
        return (x[:, 0] < shape[1]) & (x[:, 1] > 0) & (y[:, 0] < shape[0]) & (y[:, 1] > 0)

    def crop_rotated(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rotated boxes with their centre in the crop (edges included), and a mask.

        Args:
            boxes: rotated boxes of the image, float32 ``(n, 5)``: cx, cy, w, h in pixels, angle in
                radians.

        Returns:
            Boxes in the crop, float32 ``(k, 5)``, and which of ``boxes`` they are, bool ``(n,)``.
        """
        x, y, w, h, angle = boxes.T
        mirrored_x, mirrored_y = self.mirrored
        if mirrored_x:
            x = self.original[1] - x
        if mirrored_y:
            y = self.original[0] - y
        if mirrored_x != mirrored_y:
            angle = -angle
        scale_x, scale_y = np.array(self.scale_factor, np.float32)
        x = x * scale_x - np.float32(self.offset[1])
        y = y * scale_y - np.float32(self.offset[0])
        cos, sin = np.cos(angle), np.sin(angle)
        boxes = np.stack(
            [
                x,
                y,
                w * np.hypot(scale_x * cos, scale_y * sin),
                h * np.hypot(scale_x * sin, scale_y * cos),
                np.arctan2(scale_x * sin, scale_y * cos),
            ],
            1,
        ).astype(np.float32, copy=False)
        kept = (x >= 0) & (x <= self.shape[1]) & (y >= 0) & (y <= self.shape[0])
        return boxes[kept], kept

    def crop_image(self, image: np.ndarray) -> np.ndarray:
        """Return the crop of an image ``(H, W, C)``, resized bilinearly."""
        # OpenCV aligns a resize with the top left of the image: pixels below and to the right of
        # the crop are removed before the resize, those above and to the left after it.
        (top, left), (rows, columns) = self.offset, self.shape
        height, width = self.resized
        mirrored_x, mirrored_y = self.mirrored
        if mirrored_x:
            left = width - left - columns
        if mirrored_y:
            top = height - top - rows
        scale_x, scale_y = self.scale_factor
        used = image[
            : math.ceil((top + rows) / scale_y) + 2, : math.ceil((left + columns) / scale_x) + 2
        ]
        if used.shape == image.shape:
            resized = cv2.resize(image, (width, height))
        else:
            resized = cv2.resize(used, None, fx=scale_x, fy=scale_y)
        crop = resized[top : top + rows, left : left + columns]
        if self.direction is None:
            return crop
        return cv2.flip(crop, {(True, False): 1, (False, True): 0, (True, True): -1}[self.mirrored])


def _nearest(size: int, resized: int, mirrored: bool) -> np.ndarray:
    """Return the source pixel of each pixel of a line that OpenCV resizes to ``resized`` pixels."""
    ruler = np.arange(size, dtype=np.float32)[None, :: -1 if mirrored else 1]
    shown = cv2.resize(np.ascontiguousarray(ruler), (resized, 1), interpolation=cv2.INTER_NEAREST)
    return shown[0].astype(np.int64)


def _load_image(results: dict, window: Window) -> np.ndarray:
    image = results['img'] if 'img' in results else read_image(results['img_path'], window.original)
    check_shape(results['img_path'], image.shape, window.original)
    return cv2.cvtColor(window.crop_image(image), cv2.COLOR_RGB2BGR)
