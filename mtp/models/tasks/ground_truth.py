"""Ground truth of all images of a batch, in padded tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from mtp.models.tasks.base import TaskBatch, mark_varying, take_rows, to_device


@dataclass
class GroundTruth:
    """Objects of B images, padded to G slots per image; a box has D numbers.

    G is a power of two, at least 8, so that few shapes occur; compiled code serves all of them.
    A padded slot has box 0 and label 0 and is not ``valid``.

    Attributes:
        boxes: boxes, ``(B, G, D)``, pixels (and radians).
        labels: class indices in the image's data set, from 0, int64 ``(B, G)``.
        valid: whether each slot holds an object, bool ``(B, G)``.
        number: index into ``masks``, int64 ``(B, G)``.
        masks: masks of the N objects of all images, then an empty one, uint8 ``(N + 1, H, W)``;
            None without masks.
        seeds: seed of each image's random draws, int64 ``(B,)``.
        counts: number of objects of each image, as the host knows it.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    number: Tensor
    masks: Tensor | None
    seeds: Tensor
    counts: list[int]

    @classmethod
    def collect(cls, batch: TaskBatch, field: str, with_masks: bool) -> 'GroundTruth':
        """Collect the objects that the samples of ``batch`` hold in ``field``."""
        instances = [sample.get(field) for sample in batch.samples]
        counts = [len(of_image) for of_image in instances]
        total, width = sum(counts), max(8, 1 << (max(counts) - 1).bit_length())
        rows, start = [], 0
        for count in counts:
            rows.append([*range(start, start + count)] + [total] * (width - count))
            start += count
        number = to_device(rows, batch.device, torch.int64)
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
            counts=counts,
        )

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gather boxes ``(B, S, D)``, labels and numbers ``(B, S)`` of slots ``index`` (B, S)."""
        return (
            take_rows(self.boxes, index),
            self.labels.gather(1, index),
            self.number.gather(1, index),
        )
