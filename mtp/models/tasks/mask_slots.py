"""Positives of all images, packed for the mask head, whose work thus follows what is filled."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor

from mtp.mask_quota import mask_quota
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.models.tasks.sampling import Samples
from mtp.ops.roi_align import roi_align


@dataclass
class MaskSlots:
    """Positives whose masks are trained: C slots for B images together, the filled ones first.

    An image keeps its first positives up to its quota (:func:`mtp.mask_quota.mask_quota`). They
    are in the order of its sampler's hashed numbers, so each choice is equally likely, and the
    same on any process.

    Attributes:
        rois: RoIs ``(C, 5)``: index of the image, x1, y1, x2, y2 in pixels; a padded slot has
            image -1.
        images: one-hot index of the image, float32 ``(C, B)``; a padded slot has none.
        classes: one-hot index of the class among those of all data sets, float32 ``(C, classes)``.
        mask_rois: the same RoIs, clipped to the image, on the masks of all objects, ``(C, 5)``:
            ``GroundTruth.number`` of the object, x1, y1, x2, y2; a padded slot has zeros.
        counts: number of slots that each image fills, float32 ``(B,)``.
        positives: number of positives of each image that has masks, float32 ``(B,)``.
        left_out: number of these that exceed its quota, float32 ``(B,)``.
    """

    rois: Tensor
    images: Tensor
    classes: Tensor
    mask_rois: Tensor
    counts: Tensor
    positives: Tensor
    left_out: Tensor

    @classmethod
    def pack(
        cls,
        boxes: Tensor,
        samples: Samples,
        truth: GroundTruth,
        first_class: Tensor,
        classes: int,
        places: Tensor,
        shape: tuple[int, int],
    ) -> 'MaskSlots':
        """Pack the positives; the host does not wait for their number.

        Args:
            boxes: sampled boxes, ``(B, S, 4)``, pixels.
            samples: assignment of the boxes.
            truth: ground truth of the images.
            first_class: index of the first class of each image's data set among those of all data
                sets, int64 ``(B,)``; -1 for a data set without masks.
            classes: number of classes of all data sets.
            places: ``0..C-1``, with C slots, at least the sum of the quotas.
            shape: height and width of the masks in pixels.
        """
        most = samples.most
        positives = samples.positive.sum(1) * (first_class >= 0)
        counts = positives.minimum(mask_quota(truth.valid.sum(1)))
        ends = counts.cumsum(0)
        image = (places[:, None] >= ends).sum(1)
        filled = image < len(ends)
        image = image.clamp(max=len(ends) - 1)
        # positives are the first slots of an image
        slot = (places - (ends - counts)[image]).clamp(max=most - 1)
        flat = image * most + slot
        _, labels, numbers = truth.take(samples.object[:, :most])
        boxes = boxes[:, :most].flatten(0, 1)[flat]
        x1, y1, x2, y2 = boxes.clamp(min=0).unbind(1)
        height, width = shape
        mask_rois = torch.stack(
            [
                numbers.flatten()[flat].to(boxes.dtype),
                x1.clamp(max=width),
                y1.clamp(max=height),
                x2.clamp(max=width),
                y2.clamp(max=height),
            ],
            1,
        )
        own_class = (labels + first_class[:, None].clamp(min=0)).flatten()[flat, None]
        own = image[:, None] == torch.arange(len(ends), device=image.device)
        return cls(
            rois=torch.cat([torch.where(filled, image, -1)[:, None].to(boxes.dtype), boxes], 1),
            images=(own & filled[:, None]).float(),
            classes=(own_class == torch.arange(classes, device=image.device)).float(),
            mask_rois=mask_rois.masked_fill(~filled[:, None], 0),
            counts=counts.float(),
            positives=positives.float(),
            left_out=(positives - counts).float(),
        )

    def last_layers(self, heads: Sequence[FCNMaskHead]) -> tuple[Tensor, Tensor]:
        """Return weight and bias of each slot's own class, the only one with a loss.

        The 1 x 1 convolutions of all data sets would compute every class for every slot.

        Args:
            heads: heads of the data sets with masks, in the order of the classes.

        Returns:
            tuple: weights ``(C, channels, 1)``, and biases ``(C, 1, 1)``.
        """
        # A head that is class agnostic has one row for all classes.
        weight = torch.cat(
            [h.conv_logits.weight.flatten(1).expand(h.num_classes, -1) for h in heads]
        )
        bias = torch.cat([h.conv_logits.bias.expand(h.num_classes) for h in heads])
        # A product, since the gradient of an index would be added up in any order.
        chosen = self.classes.to(weight.dtype)
        return (chosen @ weight)[..., None], (chosen @ bias[:, None])[..., None]

    def targets(self, masks: Tensor, size: int) -> Tensor:
        """Return how much of each RoI's pixels is in its object's mask, ``(C, size, size)``.

        Source: mmdet's ``mask_target`` and ``BitmapMasks.crop_and_resize``, which then takes what
        is at least a half.

        Args:
            masks: masks of all objects, float32 ``(N, H, W)``, 0 or 1.
            size: side of the targets in pixels.
        """
        return roi_align(masks[:, None], self.mask_rois, size, size, 1.0, 0)[:, 0]
