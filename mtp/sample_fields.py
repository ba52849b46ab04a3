"""Samples <-> one batch of few tensors, as it travels from the loader's workers to the device.

A worker hands over every tensor on its own, and each costs time; so do many small copies to a GPU.
Hence all labels of a batch are joined, kind by kind, and become views again on the device.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures import RotatedBoxes
from torch import Tensor

IGNORED = 255  # label of pixels that do not count


@dataclass
class BoxMasks:
    """Masks of N objects, each kept inside its own box only.

    Attributes:
        boxes: int64 ``(N, 4)``, xyxy in pixels.
        pixels: uint8, 0 or 1, one box after the other, each column by column.
        shape: height and width of the image.
    """
    boxes: np.ndarray
    pixels: np.ndarray
    shape: tuple[int, int]

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray) -> 'BoxMasks':
        """The masks at ``index``, rising: an array or tensor of int64 or bool, or a slice."""
        chosen = np.arange(len(self))[index]
        if len(chosen) == len(self):
            return self
        ends = np.cumsum(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], 1))
        starts = np.concatenate([[0], ends])
        pixels = [self.pixels[starts[i]:ends[i]] for i in chosen]
        return BoxMasks(self.boxes[chosen], np.concatenate([np.zeros(0, np.uint8), *pixels]),
                        self.shape)

    @classmethod
    def cat(cls, masks: Sequence['BoxMasks']) -> 'BoxMasks':
        """The masks of all; ``InstanceData`` asks for this method, too."""
        return cls(np.concatenate([m.boxes for m in masks]),
                   np.concatenate([m.pixels for m in masks]), masks[0].shape)

    @classmethod
    def from_bitmaps(cls, masks: BitmapMasks) -> 'BoxMasks':
        """From full-size masks."""
        boxes = masks.get_bboxes('hbox').numpy().astype(np.int64)
        pixels = [np.zeros(0, np.uint8)] + [
            mask[y1:y2, x1:x2].T.reshape(-1) for mask, (x1, y1, x2, y2) in zip(masks.masks, boxes)]
        return cls(boxes, np.concatenate(pixels), (masks.height, masks.width))

    @property
    def masks(self) -> np.ndarray:
        """Full-size masks, uint8 ``(N, H, W)``, as ``BitmapMasks`` has them."""
        return paint_masks(torch.from_numpy(self.boxes), torch.from_numpy(self.pixels),
                           self.shape).numpy()


def paint_masks(boxes: Tensor, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Full-size masks of the arrays of :class:`BoxMasks`, uint8 ``(N, H, W)``, on any device.

    The host need not wait for the device.
    """
    height, width = shape
    x1, y1, x2, y2 = boxes.unbind(1)
    heights = y2 - y1
    areas = (x2 - x1) * heights
    number = torch.repeat_interleave(areas, output_size=len(pixels))
    place = torch.arange(len(pixels), device=boxes.device) - (areas.cumsum(0) - areas)[number]
    column = x1[number] + place // heights[number]
    row = y1[number] + place % heights[number]
    masks = pixels.new_zeros(len(boxes) * height * width)
    masks.scatter_(0, (number * height + row) * width + column, pixels)
    return masks.view(len(boxes), height, width)


def pack_batch(samples: Sequence[dict]) -> dict:
    """Join samples: the collate function of training.

    Args:
        samples: of :class:`mtp.data.PackLabels`.

    Returns:
        dict: ``inputs``, uint8 ``(B, 3, H, W)``, BGR, padded with 0 at the right and bottom to the
        largest image; ``data_samples``, one an image, with metainfo only; ``targets``, what
        :func:`unpack_batch` makes the labels of, in tensors and, as far as the host needs them,
        numbers.
    """
    images = [sample['inputs'] for sample in samples]
    labels = [sample['data_samples'] for sample in samples]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    inputs = torch.zeros(len(images), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for place, image in zip(inputs, images):
        place[:, :image.shape[1], :image.shape[2]] = image

    targets = dict(
        counts=[{key: len(value) if isinstance(value, InstanceData) else 1
                 for key, value in label.items()} for label in labels],
        img_shapes=torch.tensor([image.shape[1:] for image in images]))
    if 'distortion' in labels[0]:
        targets['distortion'] = torch.tensor([label.distortion for label in labels])
    maps = [label.gt_sem_seg.sem_seg[0] for label in labels if 'gt_sem_seg' in label]
    if maps:
        targets['sem_seg'] = torch.full((len(maps), height, width), IGNORED, dtype=torch.uint8)
        for place, sem_seg in zip(targets['sem_seg'], maps):
            place[:sem_seg.shape[0], :sem_seg.shape[1]] = sem_seg
    for field in ('gt_instances', 'ignored_instances', 'gt_rotated_instances'):
        instances = [label.get(field) for label in labels if field in label]
        if instances:
            targets[field] = dict(
                boxes=torch.cat([get_box_tensor(i.bboxes) for i in instances]),
                labels=torch.cat([i.labels for i in instances]))
    masks = [_as_box_masks(label.gt_instances.masks) for label in labels if 'gt_instances' in label]
    if masks:
        joined = BoxMasks.cat(masks)
        targets['masks'] = dict(boxes=torch.from_numpy(joined.boxes),
                                pixels=torch.from_numpy(joined.pixels))
    return dict(inputs=inputs, targets=targets, data_samples=[
        DetDataSample(metainfo=label.metainfo) for label in labels])


def unpack_batch(targets: dict, samples: Sequence[DetDataSample], shape: tuple[int, int]) -> None:
    """Give the samples their labels, as views of a few tensors; undoes :func:`pack_batch`.

    Semantic maps become int64 and are padded with 255, masks with 0, to the batch's shape.

    Args:
        targets: of :func:`pack_batch`, on the device.
        samples: of :func:`pack_batch`; changed in place.
        shape: height and width of the padded images.
    """
    counts = targets['counts']
    if 'sem_seg' in targets:
        maps = targets['sem_seg']
        maps = F.pad(maps, (0, shape[1] - maps.shape[2], 0, shape[0] - maps.shape[1]),
                     value=IGNORED).long()
        having = [sample for sample, count in zip(samples, counts) if 'gt_sem_seg' in count]
        for sample, sem_seg in zip(having, maps):
            sample.gt_sem_seg = PixelData(sem_seg=sem_seg[None])
    for field, box_type in (('gt_instances', HorizontalBoxes),
                            ('ignored_instances', HorizontalBoxes),
                            ('gt_rotated_instances', RotatedBoxes)):
        if field not in targets:
            continue
        having = [(s, count[field]) for s, count in zip(samples, counts) if field in count]
        sizes = [size for _, size in having]
        views = dict(bboxes=[box_type(boxes, clone=False)
                             for boxes in targets[field]['boxes'].split(sizes)],
                     labels=targets[field]['labels'].split(sizes))
        if field == 'gt_instances':
            masks = paint_masks(**targets['masks'], shape=shape)
            views['masks'] = masks.split(sizes)
        for (sample, _), *values in zip(having, *views.values()):
            sample.set_field(InstanceData(**dict(zip(views, values))), field, dtype=InstanceData)


def _as_box_masks(masks: BoxMasks | BitmapMasks) -> BoxMasks:
    return masks if isinstance(masks, BoxMasks) else BoxMasks.from_bitmaps(masks)
