"""Data preprocessors: lists of images -> one normalised, padded batch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.model import ImgDataPreprocessor
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from mtp.models.photometric import distort
from mtp.registry import MODELS
from mtp.sample_fields import ANCHOR_STRIDE, pack_batch, round_up, unpack_batch

# Number of channels that are colours: these are loaded as BGR, others in the order of the bands.
RGB = 3


class AnyBands(ImgDataPreprocessor):
    """Mixin for preprocessors of mmdet and mmseg: any number of bands; equal to theirs for three.

    Args:
        mean: mean of each band (RGB: 0..255), in the unit of the images.
        std: standard deviation of each band, in the unit of the images.
        bgr_to_rgb: whether images of three bands are converted from BGR to RGB.
        kwargs: further options of the library's class.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr_to_rgb: bool = False,
        **kwargs: Any,
    ) -> None:
        # mmengine's class takes one or three values, and converts by taking channels 2, 1, 0.
        super().__init__(
            mean=mean[:1], std=std[:1], bgr_to_rgb=bgr_to_rgb and len(mean) == RGB, **kwargs
        )
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))


@MODELS.register_module()
class BandDetDataPreprocessor(AnyBands, DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for any number of bands."""


@MODELS.register_module()
class BandSegDataPreprocessor(AnyBands, SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` for any number of bands."""


@MODELS.register_module()
class MultiTaskDataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for batches whose samples carry different labels.

    Images become RGB float32 and are normalised. They are then padded with 0 at the right and
    bottom to the largest of the batch, rounded up to a multiple of ``pad_size_divisor``; with the
    crop size as divisor, all batches have the same shape. In training, labels are padded to that
    shape as their fields say (masks with 0, semantic maps with 255). Targets thus stay aligned
    with the images; in the official code they do not when an image is smaller than the crop.

    A training batch is a result of :func:`mtp.sample_fields.pack_batch`, or lists of images and
    samples. Images stay uint8 and labels joined until they are on the device, where images are
    distorted as :class:`mtp.data.DrawDistortion` drew. The host never waits for the device.

    Args:
        pad_size_divisor: divisor of the padded height and width, pixels.
        mean: mean of each RGB channel, 0..255.
        std: standard deviation of each RGB channel, 0..255.
    """

    compiled_methods = ('normalise',)

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
            data: result of :func:`mtp.sample_fields.pack_batch` (in training only), or the lists
                ``inputs`` and ``data_samples`` of equal length.
            training: whether labels are padded and images distorted.

        Returns:
            dict: ``inputs``, float32 ``(B, 3, H, W)``, and ``data_samples``, with
            ``batch_input_shape`` and ``pad_shape`` added to their metainfo; in training also
            ``shapes`` and ``seed`` on the device, for :class:`mtp.models.tasks.TaskBatch`.
        """
        if not training:
            return super().forward(data, training)
        data = self.cast_data(self.packed(data))
        samples, targets = data['data_samples'], data['targets']
        shape = round_up(data['inputs'].shape[2:], self.pad_size_divisor)
        on_device = dict(shapes=targets['shapes']) | (
            dict(seed=targets['seeds']) if 'seeds' in targets else {}
        )
        for number, sample in enumerate(samples):
            sample.set_metainfo(
                dict(batch_input_shape=shape, pad_shape=round_up(sample.img_shape, ANCHOR_STRIDE))
            )
            for name, values in on_device.items():  # not set_metainfo, which copies
                sample.set_field(values[number], name, field_type='metainfo')
        unpack_batch(targets, samples, shape)
        inputs = self.normalise(
            data['inputs'], targets['shapes'][:, 2:], targets.get('distortion'), shape
        )
        return dict(inputs=inputs, data_samples=samples)

    def packed(self, data: dict) -> dict:
        """Return a training batch as :func:`mtp.sample_fields.pack_batch` does.

        A captured training step begins after this: all that differs between two such batches is in
        their tensors.

        Args:
            data: batch, packed or not; see :meth:`forward`.
        """
        if 'targets' in data:
            return data
        return pack_batch(
            [
                dict(inputs=image, data_samples=sample)
                for image, sample in zip(data['inputs'], data['data_samples'])
            ]
        )

    def normalise(
        self, images: Tensor, sizes: Tensor, draws: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        """Distort, normalise and pad images, float32 ``(B, 3, H, W)``.

        Args:
            images: BGR images, uint8 ``(B, 3, h, w)``.
            sizes: height and width of each image without padding, float32 ``(B, 2)``.
            draws: what :func:`mtp.models.photometric.distort` takes; None for no distortion.
            shape: height and width of the result.
        """
        if draws is not None:
            images = distort(images, draws)
        images = (images.flip(1).float() - self.mean) / self.std
        inside = [
            torch.arange(length, device=images.device) < sizes[:, axis, None]
            for axis, length in enumerate(images.shape[2:])
        ]
        images = images * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
        return F.pad(images, (0, shape[1] - images.shape[3], 0, shape[0] - images.shape[2]))

    def _get_pad_shape(self, data: dict) -> list[tuple[int, int]]:
        return [round_up(image.shape[1:], ANCHOR_STRIDE) for image in data['inputs']]
