"""The objects of all images of a batch in one tensor."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from mtp.models.tasks.base import TaskBatch, mark_varying, take_rows, to_device


@dataclass
class GroundTruth:
    """Objects of B images, padded to G an image; D numbers a box.

    G is a power of two, at least 8, so that few shapes occur; compiled code serves all of them.
    Padding has box 0 and label 0 and is not ``valid``.

    Attributes:
        boxes: ``(B, G, D)``, pixels.
        labels: int64 ``(B, G)``, from 0, of the image's data set.
        valid: bool ``(B, G)``.
        number: int64 ``(B, G)``, place among the objects of all images, for ``masks``.
        masks: uint8 ``(N + 1, H, W)`` of all N objects, then an empty one; None without masks.
        seeds: int64 ``(B,)``, of each image's random draws.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    number: Tensor
    masks: Tensor | None
    seeds: Tensor

    @classmethod
    def collect(cls, batch: TaskBatch, field: str, with_masks: bool) -> 'GroundTruth':
        """The objects that the samples of ``batch`` hold in ``field``."""
        instances = [sample.get(field) for sample in batch.samples]
        counts = [len(of_image) for of_image in instances]
        total, width = sum(counts), max(8, 1 << (max(counts) - 1).bit_length())
        number, start = [], 0
        for count in counts:
            number.append([*range(start, start + count)] + [total] * (width - count))
            start += count
        number = to_device(number, batch.device, torch.int64)
        boxes = F.pad(torch.cat([get_box_tensor(i.bboxes) for i in instances]), (0, 0, 0, 1))
        labels = F.pad(torch.cat([i.labels for i in instances]), (0, 1))
        seeds = [sample.get('sample_seed') for sample in batch.samples]
        if None in seeds:
            seeds = torch.randint(1 << 62, (len(seeds),)).tolist()
        padded = dict(
            boxes=boxes[number].float(), labels=labels[number], valid=number < total, number=number
        )
        for values in padded.values():
            mark_varying(values, 1)
        return cls(
            **padded,
            seeds=to_device(seeds, batch.device, torch.int64),
            masks=F.pad(torch.cat([i.masks for i in instances]), (0, 0, 0, 0, 0, 1))
            if with_masks
            else None,
        )

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gather boxes ``(B, S, D)``, labels and numbers ``(B, S)`` of objects ``index`` (B, S)."""
        return (
            take_rows(self.boxes, index),
            self.labels.gather(1, index),
            self.number.gather(1, index),
        )
