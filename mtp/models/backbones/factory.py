"""Backbones by name, and the interface that each of them implements."""

import inspect
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mtp.models.backbones.internimage import InternImage
from mtp.models.backbones.vit_rvsa import ViTRVSA
from mtp.models.weights.loading import load_backbone_checkpoint
from mtp.models.weights.sources import find_weights
from mtp.spelling import suggest


@runtime_checkable
class Backbone(Protocol):
    """Interface that the rest of mtp relies on, whatever the architecture.

    A backbone is a ``torch.nn.Module``. Loading a state dict resizes the entries that depend on
    the image size.

    Attributes:
        in_chans: number of bands of the images.
        first_conv: name of the convolution that takes the images; its weights are adapted if a
            checkpoint was made for three bands.
        out_channels: numbers of channels of the four feature maps.
        strides: strides of the four feature maps, pixels.
        num_layers: number of layers, as layer-wise learning rate decay counts them.
    """

    in_chans: int
    first_conv: str
    out_channels: tuple[int, ...]
    strides: tuple[int, ...]
    num_layers: int

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_chans, H, W)`` to maps ``(B, C, H / stride, W / stride)``.

        A side that the stride does not divide is padded, or the map's side is rounded.
        """

    def compiled_parts(self) -> list[nn.Module]:
        """Return the submodules to compile one by one.

        Submodules of one class share their compiled code, one version for each shape.
        """

    def layer_id(self, name: str) -> int:
        """Return the layer of a parameter, 0 to ``num_layers + 1``, by its name in the backbone."""

    def no_weight_decay(self, name: str, param: Tensor) -> bool:
        """Return whether a parameter, of any part of the model, is exempt from weight decay."""


_VIT_B = {
    'type': ViTRVSA,
    'embed_dim': 768,
    'depth': 12,
    'num_heads': 12,
    'out_indices': (3, 5, 7, 11),
    'drop_path_rate': 0.1,
}
_VIT_L = {
    'type': ViTRVSA,
    'embed_dim': 1024,
    'depth': 24,
    'num_heads': 16,
    'out_indices': (7, 11, 15, 23),
    'drop_path_rate': 0.1,
}

# The settings that the ImageNet weights were trained with.
_INTERNIMAGE = {'type': InternImage, 'post_norm': True, 'layer_scale': 1e-5}

_BACKBONES: dict[str, dict[str, Any]] = {
    'vit_b': {**_VIT_B, 'interval': 1},
    'vit_b_rvsa': {**_VIT_B, 'interval': 3},
    'vit_l': {**_VIT_L, 'interval': 1},
    'vit_l_rvsa': {**_VIT_L, 'interval': 6},
    # Windows of 4 fit the 8 x 8 tokens of a 128-pixel image without padding.
    'vit_tiny_rvsa': {'type': ViTRVSA, 'embed_dim': 128, 'depth': 4, 'num_heads': 4,
                      'interval': 2, 'out_indices': (0, 1, 2, 3), 'window_size': 4},
    'internimage_t': {'type': InternImage, 'channels': 64, 'depths': (4, 4, 18, 4),
                      'groups': (4, 8, 16, 32), 'drop_path_rate': 0.1},
    'internimage_s': {**_INTERNIMAGE, 'channels': 80, 'depths': (4, 4, 21, 4),
                      'groups': (5, 10, 20, 40), 'drop_path_rate': 0.4},
    'internimage_b': {**_INTERNIMAGE, 'channels': 112, 'depths': (4, 4, 21, 4),
                      'groups': (7, 14, 28, 56), 'drop_path_rate': 0.5},
    'internimage_l': {**_INTERNIMAGE, 'channels': 160, 'depths': (5, 5, 22, 5),
                      'groups': (10, 20, 40, 80), 'offset_scale': 2.0, 'drop_path_rate': 0.1},
    'internimage_xl': {**_INTERNIMAGE, 'channels': 192, 'depths': (5, 5, 24, 5),
                       'groups': (12, 24, 48, 96), 'offset_scale': 2.0, 'drop_path_rate': 0.2},
    # Layer scale 1: the blocks matter from the start, and so in tests.
    'internimage_pico': {**_INTERNIMAGE, 'channels': 16, 'depths': (1, 1, 2, 1),
                         'groups': (1, 2, 4, 8), 'offset_scale': 2.0, 'layer_scale': 1.0},
}  # fmt: skip


def list_backbones() -> list[str]:
    """Return the names that :func:`build_backbone` takes."""
    return sorted(_BACKBONES)


def build_backbone(
    name: str,
    img_size: int | tuple[int, int] = 224,
    pretrained: str | Path | None = None,
    **overrides: Any,
) -> Backbone:
    """Build a backbone by name; in a config, ``dict(type=build_backbone, name=..., ...)``.

    Args:
        name: one of :func:`list_backbones`.
        img_size: side, or (height, width), of the images that position tables are made for,
            pixels; ignored by a backbone without such tables. Other sizes work too.
        pretrained: checkpoint to load at once: a file, see
            :func:`mtp.models.weights.loading.load_backbone_checkpoint`, ``hf://owner/name``, or a
            name of released weights: one of the backbone's, see
            :data:`mtp.models.weights.released.RELEASED`, or one of
            :data:`mtp.models.weights.catalogue.CATALOGUE`. A config gives ``init_cfg`` instead,
            which is loaded when training starts.
        overrides: further arguments of the backbone's class, such as ``in_chans``, the number of
            bands.

    Returns:
        Backbone: images ``(B, in_chans, H, W)`` -> four maps at strides 4, 8, 16, 32.

    Raises:
        ValueError: unknown name, unknown or invalid argument, unusable checkpoint.
        FileNotFoundError: the checkpoint does not exist.
    """
    if name not in _BACKBONES:
        raise ValueError(
            f"no backbone is called '{name}'{suggest(name, _BACKBONES)}. There are: "
            + ', '.join(list_backbones())
        )
    config = dict(_BACKBONES[name])
    backbone_class = config.pop('type')
    arguments = list(inspect.signature(backbone_class).parameters)
    for key in overrides:
        if key not in arguments:
            raise ValueError(
                f"{name} has no argument '{key}'{suggest(key, arguments)}. It has: "
                + ', '.join(arguments)
            )
    if 'img_size' in arguments:
        config['img_size'] = img_size
    if 'checkpoint' in (overrides.get('init_cfg') or {}):
        path = find_weights(name, overrides['init_cfg']['checkpoint'])
        overrides['init_cfg'] = {**overrides['init_cfg'], 'checkpoint': str(path)}
    backbone = backbone_class(**{**config, **overrides})
    if pretrained is not None:
        load_backbone_checkpoint(backbone, find_weights(name, pretrained))
    return backbone
