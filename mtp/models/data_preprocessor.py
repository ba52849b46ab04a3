"""From a list of images to one normalised, padded batch."""

import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch import Tensor

from mtp.models.photometric import distort
from mtp.registry import MODELS
from mtp.sample_fields import pack_batch, unpack_batch


@MODELS.register_module()
class MultiTaskDataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for batches whose samples carry different labels.

    Images become RGB float32, normalised, then padded with 0 at the right and bottom to the
    largest of the batch, rounded up to a multiple of ``pad_size_divisor`` (the crop size makes
    every batch of the same shape). In training, labels are padded to the same shape as their
    fields say (masks with 0, semantic maps with 255): targets stay aligned with the images, which
    they do not in the official code when an image is smaller than the crop.

    A training batch is that of :func:`mtp.sample_fields.pack_batch`, or a list of samples: images
    stay uint8 and labels joined until they are on the device, where images are distorted as
    :class:`mtp.data.DrawDistortion` drew. The host never waits for the device.

    Args:
        pad_size_divisor: pixels.
        mean: per RGB channel, in 0..255.
        std: per RGB channel, in 0..255.
    """

    def __init__(
        self,
        pad_size_divisor: int,
        mean: tuple[float, ...] = (123.675, 116.28, 103.53),
        std: tuple[float, ...] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__(
            mean=mean,
            std=std,
            bgr_to_rgb=True,
            pad_size_divisor=pad_size_divisor,
            boxtype2tensor=False,
            non_blocking=True,
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device and prepare it.

        Args:
            data: see above; otherwise lists ``inputs`` and ``data_samples`` of equal length.
            training: whether labels are padded and images distorted.

        Returns:
            dict: ``inputs``, float32 ``(B, 3, H, W)``, and ``data_samples``, whose metainfo has got
            ``batch_input_shape`` and ``pad_shape``.
        """
        if not training:
            return super().forward(data, training)
        if 'targets' not in data:
            data = pack_batch(
                [
                    dict(inputs=image, data_samples=sample)
                    for image, sample in zip(data['inputs'], data['data_samples'])
                ]
            )
        data = self.cast_data(data)
        samples, targets = data['data_samples'], data['targets']
        shape = tuple(_round_up(side, self.pad_size_divisor) for side in data['inputs'].shape[2:])
        for sample in samples:
            sample.set_metainfo(
                dict(
                    batch_input_shape=shape,
                    pad_shape=tuple(_round_up(side, 32) for side in sample.img_shape),
                )
            )
        unpack_batch(targets, samples, shape)
        return dict(inputs=self._prepare(data['inputs'], targets, shape), data_samples=samples)

    def _prepare(self, images: Tensor, targets: dict, shape: tuple[int, int]) -> Tensor:
        if 'distortion' in targets:
            images = distort(images, targets['distortion'])
        images = (images.flip(1).float() - self.mean) / self.std
        inside = [
            torch.arange(length, device=images.device) < targets['img_shapes'][:, axis, None]
            for axis, length in enumerate(images.shape[2:])
        ]
        images = images * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
        return F.pad(images, (0, shape[1] - images.shape[3], 0, shape[0] - images.shape[2]))

    def _get_pad_shape(self, data: dict) -> list[tuple[int, int]]:
        # Where anchors may lie: on the image rounded up to stride 32, not on all of the padding.
        return [tuple(_round_up(side, 32) for side in image.shape[1:]) for image in data['inputs']]


def _round_up(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor
