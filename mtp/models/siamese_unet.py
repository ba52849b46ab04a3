"""Change detection: one encoder for both dates, the difference of their features, a UNet."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mtp.models.data_preprocessor import RGB, BandSegDataPreprocessor
from mtp.registry import MODELS


@MODELS.register_module()
class PairDataPreprocessor(BandSegDataPreprocessor):
    """mmseg's ``SegDataPreProcessor`` for image pairs stacked as 2 N bands, earlier date first.

    Each date becomes normalised float32, RGB where it has three bands; pairs and labels are padded
    to the same shape.

    Args:
        mean: mean of each of the N bands of a date (RGB: 0..255), in the unit of the images.
        std: standard deviation of each band, in the unit of the images.
        kwargs: options of mmseg's class: ``size`` or ``size_divisor``, ``test_cfg``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **kwargs)
        self.mean = self.mean.repeat(2, 1, 1)
        self.std = self.std.repeat(2, 1, 1)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Convert pairs ``(2 N, H, W)`` to a batch ``(B, 2 N, H, W)``; twice BGR to twice RGB."""
        pairs = data['inputs']
        if len(self.mean) == 2 * RGB:
            pairs = [pair.unflatten(0, (2, RGB)).flip(1).flatten(0, 1) for pair in pairs]
        return super().forward({**data, 'inputs': pairs}, training)


@MODELS.register_module()
class SiameseEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` on pairs of images: inputs are ``(B, 2 N, H, W)``.

    The decoder gets the absolute difference of the two dates' features, so that their order does
    not matter. Training and prediction, of whole images and in sliding windows, are mmseg's.

    Source: the change detectors that MTP finetunes (arXiv:2403.13430, section IV).
    """

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Return ``|before - after|`` of four feature maps ``(B, C, h, w)``.

        Args:
            inputs: image pairs, ``(B, 2 N, H, W)``, earlier date first.
        """
        features = super().extract_feat(torch.cat(inputs.chunk(2, dim=1)))
        # unlike chunk(2), for any number of pairs in an exported graph
        pairs = (feature.unflatten(0, (2, -1)).unbind() for feature in features)
        return [(before - after).abs() for before, after in pairs]


@MODELS.register_module()
class UNetHead(BaseDecodeHead):
    """UNet decoder: four 2x upsampling blocks with skip connections from the encoder.

    Decoding starts from the coarsest map. Each block upsamples by 2 (nearest), concatenates the
    encoder's next finer map, resized (bilinear), and convolves twice; the last block has no skip
    connection. A final 2x upsampling (bilinear) makes the logits 32 times as large as the coarsest
    map: twice the image's size if all maps have stride 16. Loss and prediction resize them to the
    label.

    Source: as released with MTP; parameter names are those of the released checkpoints.

    Args:
        in_channels: channels of the encoder's four maps, fine to coarse.
        decoder_channels: channels of the four blocks.
        kwargs: options of mmseg's ``BaseDecodeHead``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        decoder_channels: Sequence[int] = (512, 256, 128, 64),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels=list(in_channels),
            channels=decoder_channels[-1],
            in_index=list(range(len(in_channels))),
            input_transform='multiple_select',
            **kwargs,
        )
        *skips, deepest = in_channels
        before = (deepest, *decoder_channels[:-1])
        self.blocks = nn.ModuleList(
            UNetBlock(below + skip, channels, self.norm_cfg)
            for below, skip, channels in zip(before, (*reversed(skips), 0), decoder_channels)
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Decode four maps ``(B, C, h, w)``, fine to coarse, to logits.

        Returns:
            Tensor: ``(B, classes, 32 h_3, 32 w_3)`` for a coarsest map ``(B, C, h_3, w_3)``.
        """
        *skips, x = self._transform_inputs(inputs)
        for block, skip in zip(self.blocks, (*reversed(skips), None)):
            x = block(x, skip)
        x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=self.align_corners)
        return self.cls_seg(x)


class UNetBlock(nn.Module):
    """UNet block: 2x upsampling, concatenation of a finer map, two convolutions.

    Args:
        in_channels: channels of both inputs together.
        channels: channels of the output.
        norm_cfg: config of the norm layers.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()

        def conv(inside: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, channels, 3, padding=1, bias=False),
                build_norm_layer(norm_cfg, channels)[1],
                nn.ReLU(inplace=True),
            )

        self.conv1 = conv(in_channels)
        self.conv2 = conv(channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return ``(B, channels, 2 h, 2 w)``.

        Args:
            x: coarse map, ``(B, C, h, w)``.
            skip: finer map of any size, or None.
        """
        x = F.interpolate(x, scale_factor=2, mode='nearest')
        if skip is not None:
            skip = F.interpolate(skip, x.shape[-2:], mode='bilinear', align_corners=False)
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))
