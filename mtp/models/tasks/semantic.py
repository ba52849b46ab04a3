"""Semantic segmentation: one mmseg decode head, one classifier per data set."""

from collections import OrderedDict

import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import ModuleDict
from mmengine.structures import PixelData
from torch import Tensor, nn

from mtp.models.batch_norm import set_dataset_sizes
from mtp.models.tasks.base import Task, TaskBatch, mark_varying, stack_rows
from mtp.registry import MODELS


@MODELS.register_module()
class SemanticTask(Task):
    """A decode head of mmseg up to its classifier, then dropout and a 1x1 convolution per data set.

    Class 0 of the output is background, class ``i + 1`` is the data set's class ``i``.

    Args:
        in_channels: numbers of channels of the four feature maps.
        num_classes: data set -> number of classes, background not counted.
        decode_head: config of an mmseg head that has ``_forward_feature``, without ``in_channels``,
            ``in_index`` and ``num_classes``.
        dropout_ratio: probability of the channel dropout before the classifiers, 0..1.
    """

    compiled_methods = ('terms',)

    def __init__(
        self,
        in_channels: list[int],
        num_classes: dict[str, int],
        decode_head: dict,
        dropout_ratio: float = 0.1,
    ) -> None:
        super().__init__()
        head = ConfigDict(
            decode_head,
            in_channels=list(in_channels),
            in_index=list(range(len(in_channels))),
            dropout_ratio=0.0,
            num_classes=1,
            out_channels=1,
            threshold=0.5,
        )
        self.decode_head = MODELS.build(head)
        # mmseg gives every head a classifier. It stays, unused and frozen, because the official
        # whole-model checkpoints hold it too.
        self.decode_head.conv_seg.requires_grad_(False)
        self.dropout = nn.Dropout2d(dropout_ratio)
        # Named '1', as in checkpoints: there, dropout comes first.
        self.classifiers = ModuleDict(
            {
                name: nn.Sequential(
                    OrderedDict({'1': nn.Conv2d(self.decode_head.channels, n + 1, 1)})
                )
                for name, n in num_classes.items()
            }
        )

    def loss(self, features: list[Tensor], batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        """Return losses at the label's size, averaged over all pixels, ignored ones included."""
        set_dataset_sizes(self.decode_head, batch.sizes)
        feats = self.dropout(self.decode_head._forward_feature(features))
        labels = stack_rows([sample.gt_sem_seg.sem_seg for sample in batch.samples])[:, 0]
        losses = {}
        for (name, group), own_feats in zip(batch.groups.items(), feats.split(batch.sizes)):
            logits = self.classifiers[name](own_feats)
            losses[name] = self.terms(mark_varying(logits, 1), labels[group])
        return losses

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and accuracy in percent, as mmseg's ``loss_by_feat`` does, without waiting.

        A pixel is right if no logit is higher than that of its label.

        Args:
            logits: logits of background and the classes, ``(B, C, h, w)``.
            labels: label maps, uint8 or int64 ``(B, H, W)``, 0..C-1 or ``ignore_index``.
        """
        head, labels = self.decode_head, labels.long()
        logits = F.interpolate(
            logits.float(), size=labels.shape[1:], mode='bilinear', align_corners=head.align_corners
        )
        loss = head.loss_decode(logits, labels, ignore_index=head.ignore_index)
        counted = labels != head.ignore_index
        # Not argmax: Triton 3.6 refuses some kernels that reduce for both it and a softmax.
        of_label = logits.gather(1, labels.where(counted, 0)[:, None])[:, 0]
        right = (of_label == logits.amax(1)) & counted
        return {
            head.loss_decode.loss_name: loss,
            'acc_seg': 100 * right.sum() / counted.sum().clamp(min=1),
        }

    def predict(self, features: list[Tensor], batch: TaskBatch) -> None:
        """Add ``pred_sem_seg``, int64 ``(1, H, W)`` of the original image, 0 = background.

        ``seg_logits`` has what it is the maximum of, ``(K + 1, H, W)``.
        """
        feats = self.decode_head._forward_feature(features)
        for feat, sample in zip(feats, batch.samples):
            logits = self.classifiers[sample.dataset](feat[None])
            # Cut off the padding before the map is resized: stretched along with the image, it
            # would shift every class, as in the official code on non-square images.
            logits = F.interpolate(logits, size=sample.batch_input_shape, mode='bilinear')
            height, width = sample.img_shape
            logits = F.interpolate(
                logits[:, :, :height, :width], size=sample.ori_shape[:2], mode='bilinear'
            )
            sample.seg_logits = PixelData(data=logits[0])
            sample.pred_sem_seg = PixelData(sem_seg=logits.argmax(1))
