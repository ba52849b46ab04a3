"""Fields of a pretraining sample: a table with one row per task, and the batching of its fields.

The loader, the batch, the metric and the visualisation all iterate over the table. The rows of
mtp's own tasks are in :mod:`mtp.data.labels`; a row for another task is a class of your own, see
docs/pretraining.md.

A worker process sends every tensor separately, and each costs time; so do many small copies to a
GPU. All labels of a batch are therefore joined, field by field, and split into views again on the
device.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mtp.batch_rungs import Rung, lowest_rung
from mtp.registry import LABELS

IGNORED = 255  # label of pixels that losses and metrics ignore
# Anchors are allowed on an image rounded up to this stride, not on all of its padding.
ANCHOR_STRIDE = 32


@dataclass
class BoxMasks:
    """Masks of N objects, each stored only inside its own box.

    Attributes:
        boxes: boxes of the objects, int64 ``(N, 4)``, xyxy in pixels.
        pixels: mask pixels, uint8, 0 or 1, box after box, each column by column.
        shape: height and width of the image in pixels.
    """

    boxes: np.ndarray
    pixels: np.ndarray
    shape: tuple[int, int]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray) -> 'BoxMasks':
        """Return the masks at ``index``: ascending indices (array or tensor), bools, or a slice."""
        chosen = np.arange(len(self))[index]
        if len(chosen) == len(self):
            return self
        ends = np.cumsum(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], 1))
        starts = np.concatenate([[0], ends])
        pixels = [self.pixels[starts[i] : ends[i]] for i in chosen]
        return BoxMasks(
            self.boxes[chosen], np.concatenate([np.zeros(0, np.uint8), *pixels]), self.shape
        )

    @classmethod
    def cat(cls, masks: Sequence['BoxMasks']) -> 'BoxMasks':
        """Concatenate masks; ``InstanceData`` calls this method, too."""
        return cls(
            np.concatenate([m.boxes for m in masks]),
            np.concatenate([m.pixels for m in masks]),
            masks[0].shape,
        )

    @classmethod
    def from_bitmaps(cls, masks: BitmapMasks) -> 'BoxMasks':
        """Convert full-size masks."""
        boxes = masks.get_bboxes('hbox').numpy().astype(np.int64)
        pixels = [np.zeros(0, np.uint8)] + [
            mask[y1:y2, x1:x2].T.reshape(-1) for mask, (x1, y1, x2, y2) in zip(masks.masks, boxes)
        ]
        return cls(boxes, np.concatenate(pixels), (masks.height, masks.width))

    @property
    def masks(self) -> np.ndarray:
        """Full-size masks, uint8 ``(N, H, W)``, as ``BitmapMasks`` has them."""
        return paint_masks(torch.from_numpy(self.boxes), torch.from_numpy(self.pixels), self.shape)[
            :-1
        ].numpy()


def paint_masks(
    boxes: Tensor, pixels: Tensor, shape: tuple[int, int], dtype: torch.dtype = torch.uint8
) -> Tensor:
    """Paint the arrays of :class:`BoxMasks` as full-size masks.

    The host does not wait for the device. Boxes without area and pixels beyond those of the boxes,
    which must be 0, are padding.

    Returns:
        Tensor: ``dtype`` ``(N + 1, H, W)``; the last mask is empty.
    """
    (height, width), number = shape, len(boxes)
    x1, y1, x2, y2 = F.pad(boxes, (0, 0, 0, 1)).unbind(1)
    heights = y2 - y1
    areas = (x2 - x1) * heights
    ends = areas.cumsum(0)
    place = torch.arange(len(pixels), device=boxes.device)
    owner = torch.searchsorted(ends[:-1], place, right=True)
    place = place - (ends - areas)[owner]
    heights = heights.clamp(min=1)[owner]
    column, row = x1[owner] + place // heights, y1[owner] + place % heights
    painted = torch.where(
        owner < number, (owner * height + row) * width + column, number * height * width
    )
    masks = pixels.new_zeros((number + 1) * height * width, dtype=dtype)
    return masks.scatter_(0, painted, pixels.to(dtype)).view(-1, height, width)


class Field(ABC):
    """Batching of a field: its transfer from the workers to the device, and its padding there."""

    @abstractmethod
    def join(self, values: Sequence, shape: tuple[int, int], rung: Rung) -> dict:
        """Join the values of several images into a few tensors.

        Args:
            values: values of the field, one per image.
            shape: height and width of the largest image in pixels.
            rung: sizes that objects are padded to.
        """

    @abstractmethod
    def split(self, joined: dict, shape: tuple[int, int]) -> list:
        """Undo :meth:`join` with views on the device; the host does not wait for it.

        Args:
            joined: result of :meth:`join`, with its tensors on the device.
            shape: height and width of the padded images in pixels.
        """


@dataclass(frozen=True)
class Map(Field):
    """One map per image: ``PixelData`` with one tensor ``(C, H, W)``.

    Attributes:
        name: name of the tensor in the ``PixelData``.
        padding: value of the pixels added at the right and bottom.
        dtype: type of the tensor on the device.
    """

    name: str
    padding: float
    dtype: torch.dtype

    def join(self, values: Sequence[PixelData], shape: tuple[int, int], rung: Rung) -> dict:
        """Pad the maps to one shape."""
        maps = [value.get(self.name) for value in values]
        joined = torch.full((len(maps), len(maps[0]), *shape), self.padding, dtype=maps[0].dtype)
        for place, of_image in zip(joined, maps):
            place[:, : of_image.shape[1], : of_image.shape[2]] = of_image
        return dict(maps=joined)

    def split(self, joined: dict, shape: tuple[int, int]) -> list[PixelData]:
        """Pad the maps to the images' shape."""
        maps = joined['maps']
        bottom, right = (side - own for side, own in zip(shape, maps.shape[2:]))
        if bottom or right:  # no padding at all would be a copy
            maps = F.pad(maps, (0, right, 0, bottom), value=self.padding)
        return [PixelData(**{self.name: of_image}) for of_image in maps.to(self.dtype)]


@dataclass(frozen=True)
class Boxes(Field):
    """Labelled boxes of each image: ``InstanceData`` of ``bboxes``, ``labels`` and ``masks``.

    On the device, an image has a fixed number of slots, more than objects: ``valid`` tells which
    hold one, ``number`` is the index of its mask among those of all images and an empty one, which
    padded slots have. In the metainfo, ``batch_masks`` are the arguments of :func:`paint_masks`
    that paint them, and ``mask_slots`` is the rung's.

    Attributes:
        box_type: class of ``bboxes``.
        masks: whether the boxes have masks, which are padded with 0.
    """

    box_type: type[BaseBoxes]
    masks: bool = False

    def join(self, values: Sequence[InstanceData], shape: tuple[int, int], rung: Rung) -> dict:
        """Pad the objects of each image, and their masks one after the other."""
        joined: dict[str, Any] = dict(
            boxes=torch.zeros(len(values), rung.slots, self.box_type.box_dim),
            labels=torch.zeros(len(values), rung.slots, dtype=torch.int64),
            numbers=torch.full((len(values), rung.slots), rung.objects),
            objects=rung.objects,
        )
        first = 0
        for image, value in enumerate(values):
            count = len(value)
            joined['boxes'][image, :count] = get_box_tensor(value.bboxes)
            joined['labels'][image, :count] = value.labels
            joined['numbers'][image, :count] = torch.arange(first, first + count)
            first += count
        if self.masks:
            masks = BoxMasks.cat([_as_box_masks(value.masks) for value in values])
            joined['masks'] = dict(
                boxes=_padded(masks.boxes, rung.objects), pixels=_padded(masks.pixels, rung.pixels)
            )
            joined['mask_slots'] = rung.masks
        return joined

    def split(self, joined: dict, shape: tuple[int, int]) -> list[InstanceData]:
        """Return each image's slots."""
        masks = dict(joined['masks'], shape=shape) if self.masks else None
        valid = joined['numbers'] < joined['objects']
        padded = []
        for boxes, labels, filled, numbers in zip(
            joined['boxes'], joined['labels'], valid, joined['numbers']
        ):
            of_image = InstanceData(
                bboxes=self.box_type(boxes, clone=False),
                labels=labels,
                valid=filled,
                number=numbers,
            )
            # not set_metainfo, which copies
            of_image.set_field(masks, 'batch_masks', field_type='metainfo')
            of_image.set_field(joined.get('mask_slots'), 'mask_slots', field_type='metainfo')
            padded.append(of_image)
        return padded


def _padded(values: np.ndarray, length: int) -> Tensor:
    """Return an array as a tensor, with zeros up to ``length`` rows."""
    result = torch.zeros(length, *values.shape[1:], dtype=torch.from_numpy(values).dtype)
    result[: len(values)] = torch.from_numpy(values)
    return result


def _as_box_masks(masks: BoxMasks | BitmapMasks) -> BoxMasks:
    return masks if isinstance(masks, BoxMasks) else BoxMasks.from_bitmaps(masks)


class Label:
    """A row of the table: the labels of a task, from the files to the visualisation.

    A subclass is registered by ``@LABELS.register_module()``. A data set uses it when its ``tasks``
    contain the row's config, ``dict(type=<subclass>)``, or, for mtp's own rows, the task's name.

    Attributes:
        task: name of the task in configs, checkpoints, logs and metrics.
        name: stem of the names of its fields in a sample, ``gt_<name>`` and ``pred_<name>``.
        key: key of the transforms' results that is present exactly where these labels are.
        fields: ground-truth field of a sample -> its batching.
        columns: array in the index of a data set -> its :class:`mtp.data.index.Column`.
        reads_files: whether :meth:`load` and :meth:`crop` read files. Such labels are cropped last,
            since other labels may reject the crop. They cannot be packed, except the semantic map.
    """

    task: ClassVar[str]
    name: ClassVar[str]
    key: ClassVar[str]
    fields: ClassVar[Mapping[str, Field]]
    columns: ClassVar[Mapping[str, Any]] = {}
    reads_files: ClassVar[bool] = False

    def sources(self, dataset: Any) -> list[Path]:
        """Return the files, or folders of files, that :meth:`read` reads besides the json.

        Args:
            dataset: a :class:`mtp.data.SAMRSDataset`, with ``root``, ``subset`` and ``labels``.
        """
        return []

    def read(self, dataset: Any, image: dict, annotations: list[dict]) -> dict[str, Any]:
        """Read an image's values of ``columns`` while the index of a data set is built.

        Args:
            dataset: data set, as in :meth:`sources`.
            image: entry of the image in the json.
            annotations: usable annotations of the image in the json, each with its ``label``.
        """
        return {}

    def check(self, entry: Any, num_classes: int) -> None:
        """Check an image's values of ``columns`` that come from an index of another machine.

        Args:
            entry: a :class:`mtp.data.index.Entry` with arrays of the right types.
            num_classes: number of classes of the data set.

        Raises:
            ValueError: a value is none that :meth:`read` returns.
        """

    def paths(self, dataset: Any, stem: str) -> dict[str, str]:
        """Return further entries of an image's record: paths for :meth:`load` and :meth:`crop`.

        Args:
            dataset: data set, as in :meth:`sources`.
            stem: stem of the image's file name.
        """
        return {}

    def load(self, results: dict) -> None:
        """Add the labels of the whole image to ``results``, ``key`` among them.

        Args:
            results: record of an image, with its :class:`mtp.data.index.Entry` as ``labels``, and
                its ``ori_shape``.
        """
        raise NotImplementedError

    def crop(self, results: dict, window: Any) -> bool | None:
        """Add the labels of a training crop to ``results``, ``key`` among them.

        Args:
            results: record of an image, as in :meth:`load`.
            window: geometry of the crop, a :class:`mtp.data.crops.Window`.

        Returns:
            True to reject the crop; another image is drawn then.
        """
        raise NotImplementedError

    def flip(self, results: dict) -> None:
        """Flip the labels in ``flip_direction``, unless mmdet's ``RandomFlip`` flips them."""

    def resize(self, results: dict) -> None:
        """Resize the labels by ``scale_factor``, unless mmdet's ``Resize`` resizes them."""

    def cut(self, results: dict) -> None:
        """Crop the labels to ``img_shape``, unless mmdet's ``RandomCrop`` crops them.

        The offset is the translation of ``homography_matrix``.
        """

    def pack(self, results: dict) -> dict[str, PixelData | InstanceData]:
        """Return the sample's ``fields``."""
        raise NotImplementedError

    def draw(
        self, tile: np.ndarray, content: PixelData | InstanceData, scale: float, meta: dict
    ) -> set[int]:
        """Draw ground truth or a prediction on an image, in place.

        Args:
            tile: the image, uint8 RGB, enlarged or reduced.
            content: field ``gt_<name>`` or ``pred_<name>`` of a sample, without the objects of a
                low score.
            scale: side of the tile divided by the side of the image.
            meta: ``classes`` and ``palette`` (RGB per class) of the data set.

        Returns:
            Labels that occur in the picture, for the legend.
        """
        raise NotImplementedError


def label_table() -> dict[str, Label]:
    """Return the table, task -> row, with mtp's own rows first."""
    LABELS.import_from_location()
    labels = sorted(
        LABELS.module_dict.values(), key=lambda label: not label.__module__.startswith('mtp.')
    )
    return {label.task: label() for label in labels}


def find_labels(tasks: Iterable[str | dict]) -> tuple[Label, ...]:
    """Return the rows of some tasks.

    Args:
        tasks: name of each task, or the config of its row.

    Raises:
        ValueError: ``tasks`` is empty, or a task is not in the table.
    """
    names = [LABELS.build(task).task if isinstance(task, dict) else task for task in tasks]
    table = label_table()
    if not names or not set(names) <= set(table):
        raise ValueError(
            f'tasks={tasks!r}: give one or more of {", ".join(table)}, or the config '
            'of a row of your own, whose class is registered in mtp.registry.LABELS'
        )
    return tuple(table[name] for name in names)


def pack_batch(samples: Sequence[dict]) -> dict:
    """Join samples into a batch: the collate function of training.

    Args:
        samples: samples made by :class:`mtp.data.PackLabels`.

    Returns:
        dict: ``inputs``, uint8 ``(B, 3, H, W)``, BGR, padded with 0 at the right and bottom to the
        largest image; ``data_samples``, one per image, with metainfo only; ``targets``, the joined
        labels for :func:`unpack_batch`: tensors alone decide what a step computes, but for their
        shapes and sizes, of which there are few (:mod:`mtp.batch_rungs`), and ``images``, the
        indices of the images with a field; among them ``shapes``, those of
        :class:`mtp.models.tasks.TaskBatch`.
    """
    images = [sample['inputs'] for sample in samples]
    labels = [sample['data_samples'] for sample in samples]
    shape = tuple(max(image.shape[axis] for image in images) for axis in (1, 2))
    inputs = torch.zeros(len(images), *shape, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for place, image in zip(inputs, images):
        place[:, : image.shape[1], : image.shape[2]] = image

    shapes = [(*round_up(image.shape[1:], ANCHOR_STRIDE), *image.shape[1:]) for image in images]
    targets: dict[str, Any] = dict(shapes=torch.tensor(shapes, dtype=torch.float32), fields={})
    seeds = [label.get('sample_seed') for label in labels]
    if None not in seeds:
        targets['seeds'] = torch.tensor(seeds)
    if 'distortion' in labels[0]:
        targets['distortion'] = torch.tensor([label.distortion for label in labels])
    fields = _fields()
    found = {
        name: {i: label.get(name) for i, label in enumerate(labels) if name in label}
        for name in fields
    }
    rung = _rung(fields, found, len(labels), shape)
    for name, values in found.items():
        if values:
            joined = fields[name].join([*values.values()], shape, rung)
            targets['fields'][name] = dict(joined, images=[*values])
    return dict(
        inputs=inputs,
        targets=targets,
        data_samples=[DetDataSample(metainfo=label.metainfo) for label in labels],
    )


def _rung(
    fields: Mapping[str, Field],
    found: Mapping[str, Mapping[int, Any]],
    images: int,
    shape: tuple[int, int],
) -> Rung:
    """Return the sizes that hold the objects of a batch in each of its fields.

    Args:
        fields: fields by name.
        found: name of a field -> index of an image -> its value.
        images: number of images.
        shape: height and width of the largest image in pixels.
    """
    counts, pixels = [0] * images, 0
    for name, values in found.items():
        field = fields[name]
        if isinstance(field, Boxes):
            for i, value in values.items():
                counts[i] = max(counts[i], len(value))
                pixels += _as_box_masks(value.masks).pixels.size if field.masks else 0
    return lowest_rung(counts, pixels, shape)


def round_up(shape: Sequence[int], divisor: int) -> tuple[int, int]:
    """Round a height and a width up to multiples of a divisor."""
    height, width = shape
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def unpack_batch(targets: dict, samples: Sequence[DetDataSample], shape: tuple[int, int]) -> None:
    """Give the samples their labels, as views of a few tensors; undo :func:`pack_batch`.

    Args:
        targets: joined labels from :func:`pack_batch`, on the device.
        samples: samples from :func:`pack_batch`; changed in place.
        shape: height and width of the padded images in pixels.
    """
    for name, field in _fields().items():
        if name in targets['fields']:
            joined = targets['fields'][name]
            for i, value in zip(joined['images'], field.split(joined, shape)):
                setattr(samples[i], name, value)


def _fields() -> dict[str, Field]:
    return {name: field for label in label_table().values() for name, field in label.fields.items()}
