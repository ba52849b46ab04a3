"""Released encoders that finetuning starts from, by backbone and name."""

from pathlib import Path

from mtp.files import home

FOLDER = Path('checkpoints')  # below the working directory

# backbone -> name -> file name of the publisher. `mae` is from facebookresearch/mae, `imagenet`
# (22k then 1k classes, 384 pixels) from OpenGVLab/InternImage, `mtp` from ViTAE-Transformer/MTP.
RELEASED: dict[str, dict[str, str]] = {
    'vit_b': {'mae': 'mae_pretrain_vit_base.pth'},
    'vit_b_rvsa': {
        'mae': 'mae_pretrain_vit_base.pth',
        'mtp': 'last_vit_b_rvsa_ss_is_rd_pretrn_model_encoder.pth',
    },
    'vit_l': {'mae': 'mae_pretrain_vit_large.pth'},
    'vit_l_rvsa': {
        'mae': 'mae_pretrain_vit_large.pth',
        'mtp': 'last_vit_l_rvsa_ss_is_rd_pretrn_model_encoder.pth',
    },
    'internimage_xl': {
        'imagenet': 'internimage_xl_22kto1k_384.pth',
        'mtp': 'last_internimage_xl_ss_is_rd_pretrn_model_encoder.pth',
    },
}


def folders() -> list[Path]:
    """Return where released weights are looked for: ``checkpoints/``, then mtp's own folder."""
    return [FOLDER, home()]


def find_released(backbone: str, checkpoint: str | Path) -> Path:
    """Return the file of a backbone's released checkpoint; return any other path unchanged.

    Args:
        backbone: name of a backbone, as in :func:`mtp.models.backbones.build_backbone`.
        checkpoint: name of released weights in :data:`RELEASED`, or path of any other file.

    Returns:
        Path: the file in the first of :func:`folders` that has it; in the first, if none has.

    Raises:
        ValueError: ``checkpoint`` has neither suffix nor folder, and no released weights of the
            backbone have this name.
    """
    names = RELEASED.get(backbone, {})
    if str(checkpoint) in names:
        paths = [folder / names[str(checkpoint)] for folder in folders()]
        return next((path for path in paths if path.exists()), paths[0])
    if str(checkpoint) == Path(checkpoint).stem:
        raise ValueError(
            f'no released weights of {backbone} are called {str(checkpoint)!r}. '
            f'There are: {", ".join(names) or "none"}; or give the path of a file'
        )
    return Path(checkpoint)
