"""Batch and schedule follow from the data's size, the device and the task, by a pure function."""

import pytest

from mtp.recipes.planning import MAX_UPDATES, MEMORY, MIN_UPDATES, Facts, plan

# facts -> side, batch, images at once, epochs
CASES = [
    (Facts('rotated_detection', 12_000, 1024, 'vit_b_rvsa', memory=80), (1024, 4, None, 12)),
    (Facts('rotated_detection', 24, 600, 'vit_b_rvsa'), (448, 4, None, 167)),
    (Facts('horizontal_detection', 30, 1100, 'vit_tiny_rvsa'), (448, 4, None, 125)),
    (Facts('horizontal_detection', 30, 300, 'vit_tiny_rvsa', False), (320, 4, None, 250)),
    (Facts('horizontal_detection', 3, 100, 'vit_b'), (224, 1, None, 334)),
    (Facts('horizontal_detection', 1, 100, 'vit_b', processes=2), (224, 2, None, 1000)),
    (Facts('classification', 27_000, 64, 'internimage_xl', memory=16), (224, 64, 24, 100)),
    (Facts('segmentation', 100_000, 1024, 'vit_l', memory=24), (384, 8, None, 6)),
    (Facts('change_detection', 445, 1024, 'vit_l_rvsa', memory=12), (256, 32, 8, 150)),
    (
        Facts('rotated_detection', 5_000, 1024, 'vit_l_rvsa', memory=12, processes=2),
        (1024, 4, 1, 12),
    ),
]


@pytest.mark.parametrize('facts, expected', CASES)
def test_plan(facts, expected):
    made = plan(facts)
    assert (made.side, made.batch, made.images_per_gpu, made.epochs) == expected
    assert min(MIN_UPDATES, MAX_UPDATES) <= made.updates <= MAX_UPDATES
    assert 0 < made.warmup <= made.updates / 2 and 1 <= made.val_interval <= made.epochs
    assert all(': ' in reason or 'steps' in reason for reason in made.reasons)


def test_every_encoder_has_its_memory():
    from mtp.models import list_backbones

    assert set(MEMORY) == set(list_backbones())
