"""The models that the benchmarks train; imports no torch."""

# model -> its recipe below configs/pretrain, and whether the decoders are the small ones
RECIPES = {
    'vit_b_rvsa': ('vit_b_rvsa_samrs', False),
    'vit_l_rvsa': ('vit_l_rvsa_samrs', False),
    'internimage_xl': ('internimage_xl_samrs', False),
    'vit_tiny_rvsa': ('vit_tiny_rvsa_demo', True),
    'internimage_pico': ('internimage_pico_demo', True),
}


def image_size(model: str) -> int:
    """Return the side of an image in pixels where none is asked for."""
    return 128 if RECIPES[model][1] else 448
