"""The models that the benchmarks train; imports no torch."""

# model -> its recipe below configs/pretrain, and whether it has the small decoders
RECIPES = {
    'vit_b_rvsa': ('vit_b_rvsa_samrs', False),
    'vit_l_rvsa': ('vit_l_rvsa_samrs', False),
    'internimage_xl': ('internimage_xl_samrs', False),
    'vit_tiny_rvsa': ('vit_tiny_rvsa_demo', True),
    'internimage_pico': ('internimage_pico_demo', True),
}


def image_size(model: str) -> int:
    """Return the default side of an image, pixels."""
    return 128 if RECIPES[model][1] else 448
