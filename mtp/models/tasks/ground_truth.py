"""Ground truth of all images of a batch, in padded tensors."""

from dataclasses import dataclass
from typing import Any

from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from mtp.models.tasks.base import TaskBatch, mark_varying, stack_rows, take_rows


@dataclass
class GroundTruth:
    """Objects of B images, padded to G slots per image; a box has D numbers.

    G is that of the batch's rung (:mod:`mtp.batch_rungs`); compiled code serves all of them. A
    padded slot has box 0 and label 0 and is not ``valid``.

    Attributes:
        boxes: boxes, ``(B, G, D)``, pixels (and radians).
        labels: class indices in the image's data set, from 0, int64 ``(B, G)``.
        valid: whether each slot holds an object, bool ``(B, G)``.
        number: index of the mask among those that ``masks`` give, int64 ``(B, G)``.
        masks: arguments of :func:`mtp.sample_fields.paint_masks` for all images' objects; None
            without masks.
        seeds: seed of each image's random draws, int64 ``(B,)``.
        mask_slots: number of slots of the mask head, which the quotas of the images
            (:mod:`mtp.mask_quota`) do not exceed; 0 without masks.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    number: Tensor
    masks: dict[str, Any] | None
    seeds: Tensor
    mask_slots: int

    @classmethod
    def collect(cls, batch: TaskBatch, field: str, with_masks: bool) -> 'GroundTruth':
        """Collect the objects that the samples of ``batch`` hold in ``field``."""
        instances = [sample.get(field) for sample in batch.samples]
        padded = dict(
            boxes=stack_rows([get_box_tensor(i.bboxes) for i in instances]).float(),
            **{
                name: stack_rows([i.get(name) for i in instances])
                for name in ('labels', 'valid', 'number')
            },
        )
        for values in padded.values():
            mark_varying(values, 1)
        first = instances[0]
        masks = first.batch_masks if with_masks else None
        if masks is not None:
            mark_varying(masks['boxes'], 0)
            mark_varying(masks['pixels'], 0)
        return cls(
            **padded,
            seeds=batch.seeds,
            masks=masks,
            mask_slots=first.mask_slots if with_masks else 0,
        )

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gather boxes ``(B, S, D)``, labels and numbers ``(B, S)`` of slots ``index`` (B, S)."""
        return (
            take_rows(self.boxes, index),
            self.labels.gather(1, index),
            self.number.gather(1, index),
        )
