"""Batch, schedule and evaluation of a training on one's own data, from the size of the data.

The recipes of the paper are for thousands of images. A smaller data set takes the same number of
images a step where it has them, and more epochs, so that it gets enough updates to learn from.
"""

import math
from dataclasses import dataclass

# Finetuning task -> images a step, epochs, side of the model's images in pixels, of the recipes.
RECIPES = {
    'classification': (64, 100, 224),
    'horizontal_detection': (4, 12, 800),
    'rotated_detection': (4, 12, 1024),
    'segmentation': (8, 100, 384),
    'change_detection': (32, 150, 256),
    'pretraining': (8, 100, 448),
}
# Updates that a training gets at least, from pretrained and from untrained weights, and at most:
# those of the paper's longest recipes. A tiny encoder without weights takes 1,200 on NWPU VHR-10
# (docs/real_images.md).
MIN_UPDATES, MIN_UPDATES_UNTRAINED, MAX_UPDATES = 1_000, 2_000, 80_000
MIN_STEPS = 4  # steps of an epoch: below that a batch is a large part of the data
VALIDATIONS = 10
SIDE_STEP = 32  # sides are multiples of it, which all encoders divide
MIN_SIDE, MAX_SIDE_ON_CPU = 224, 448
# Encoder -> GiB that a compiled step keeps for an image of 448 x 448 pixels and its decoders, and
# GiB of weights, their copies, gradients and optimiser: 18 bytes a parameter. Counted in
# pretraining by the gate (tools/gate/kept.py), without a GPU; uncompiled, a half more is kept.
MEMORY = {
    'vit_tiny_rvsa': (0.04, 0.1),
    'vit_b': (0.38, 2.5),
    'vit_b_rvsa': (0.36, 2.5),
    'vit_l': (0.68, 6.2),
    'vit_l_rvsa': (0.62, 6.2),
    'internimage_pico': (0.04, 0.1),
    'internimage_t': (0.39, 1.3),
    'internimage_s': (0.48, 1.7),
    'internimage_b': (0.60, 2.5),
    'internimage_l': (0.87, 4.5),
    'internimage_xl': (1.03, 6.4),
}
USABLE = 0.8  # share of a device's memory that is planned with


@dataclass(frozen=True)
class Facts:
    """What a plan follows from.

    Attributes:
        task: finetuning task, or ``'pretraining'``.
        images: number of training images, from 1 on.
        side: median of the longer sides of the training images, pixels.
        encoder: name of the backbone.
        pretrained: whether the encoder starts from weights.
        memory: memory of a device in GiB; None for a CPU.
        processes: number of devices that train together.
    """

    task: str
    images: int
    side: int
    encoder: str
    pretrained: bool = True
    memory: float | None = None
    processes: int = 1


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    Attributes:
        side: side of the model's images in pixels.
        batch: number of images of a step, over all devices.
        images_per_gpu: largest number of images that a device takes at once; None for its share.
        epochs: number of epochs.
        updates: number of steps in all.
        warmup: number of steps in which the learning rate rises.
        val_interval: epochs between two validations.
        lr_factor: factor of the recipe's learning rate.
        reasons: a line for each setting, with its reason.
    """

    side: int
    batch: int
    images_per_gpu: int | None
    epochs: int
    updates: int
    warmup: int
    val_interval: int
    lr_factor: float
    reasons: tuple[str, ...]


def plan(facts: Facts) -> Plan:
    """Return the settings for a data set, a task, an encoder and a device."""
    usual_batch, usual_epochs, usual_side = RECIPES[facts.task]
    side, why_side = _side(facts, usual_side)
    batch, why_batch = _batch(facts, usual_batch)
    share, why_share = _share(facts, side, batch)
    steps = math.ceil(facts.images / batch)
    needed = MIN_UPDATES if facts.pretrained else MIN_UPDATES_UNTRAINED
    epochs = min(max(usual_epochs, math.ceil(needed / steps)), max(1, MAX_UPDATES // steps))
    updates = steps * epochs
    if epochs > usual_epochs:
        why_epochs = f'{usual_epochs} as in the recipe would be {steps * usual_epochs:,} steps only'
    elif epochs < usual_epochs:
        why_epochs = f'{usual_epochs} as in the recipe would be more than {MAX_UPDATES:,} steps'
    else:
        why_epochs = 'as in the recipe'
    val_interval = max(1, epochs // VALIDATIONS)
    warmup = min(500, max(1, updates // 20))
    # the square root keeps the noise of Adam's steps
    factor = round(math.sqrt(batch / usual_batch), 3)
    return Plan(
        side=side,
        batch=batch,
        images_per_gpu=share,
        epochs=epochs,
        updates=updates,
        warmup=warmup,
        val_interval=val_interval,
        lr_factor=factor,
        reasons=(
            f'image side {side}: {why_side}',
            f'batch {batch}: {why_batch}',
            *([f'images at once on a device {share}: {why_share}'] if why_share else []),
            f'epochs {epochs}, {updates:,} steps: {why_epochs}',
            f'warm-up {warmup} steps, validation every {val_interval} epochs',
            *([f'learning rate times {factor}: for the smaller batch'] if factor != 1 else []),
        ),
    )


def _side(facts: Facts, usual: int) -> tuple[int, str]:
    if facts.task == 'classification':
        return usual, 'as in the recipe; images are resized'
    fitting = max(MIN_SIDE, math.ceil(facts.side / SIDE_STEP) * SIDE_STEP)
    if facts.memory is None and min(fitting, usual) > MAX_SIDE_ON_CPU:
        return MAX_SIDE_ON_CPU, f'a CPU takes long for {min(fitting, usual)}, as on a GPU'
    if fitting < usual:
        return fitting, f'the images have {facts.side} pixels'
    return usual, 'as in the recipe'


def _batch(facts: Facts, usual: int) -> tuple[int, str]:
    few = facts.images // MIN_STEPS
    batch = usual if few >= usual else 2 ** int(math.log2(max(few, 1)))
    # each process takes an equal share
    batch = max(batch // facts.processes, 1) * facts.processes
    if batch > facts.images:
        return batch, f'one for each of {facts.processes} processes, more than the data have'
    if batch == usual:
        return batch, 'as in the recipe'
    return batch, f'{facts.images:,} images; {usual} as in the recipe would be few steps an epoch'


def _share(facts: Facts, side: int, batch: int) -> tuple[int | None, str]:
    if facts.memory is None:
        return None, ''
    per_image, fixed = MEMORY[facts.encoder]
    per_image *= (side / 448) ** 2 * (2 if facts.task == 'change_detection' else 1)
    fitting = max(1, int((facts.memory * USABLE - fixed) / per_image))
    share = batch // facts.processes
    if fitting >= share:
        return None, ''
    return fitting, f'{facts.memory:.0f} GiB of memory, about {per_image:.1f} GiB an image'
