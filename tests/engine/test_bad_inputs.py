"""Numbers that are not finite pass through every library's training step, and change nothing."""

from functools import partial

import pytest
import torch
from mmengine.config import Config
from torch.optim import AdamW

from mtp.engine import MixedPrecisionOptimWrapper
from mtp.ops import box_iou_rotated, nms_rotated
from mtp.ops.value_checks import values_unchecked
from mtp.recipes.shrink import shrink
from tests import test_detection_configs as detection
from tests import test_finetune_configs as finetuning
from tests.models import small

RECIPES = {
    'classification': ('eurosat', 64),
    'segmentation': ('loveda', 64),
    'change_detection': ('levir', 64),
    'horizontal_detection': ('dior', 128),
    'rotated_detection': ('dior_r', 128),
}


def model_and_batch(task):
    """A tiny model as its recipe has it, and a batch."""
    if task == 'pretraining':
        model = small.build_model({name: dict(num_classes=2) for name in 'ab'})
        samples = [small.make_sample(name, seed=seed) for seed, name in enumerate('aabb')]
    else:
        data, side = RECIPES[task]
        cfg = Config.fromfile(finetuning.ROOT / task / data / 'vit_b_rvsa.py')
        shrink(cfg, side)
        model = finetuning.build(cfg, 'cpu')
        model.init_weights()
        if 'detection' in task and task != 'change_detection':
            samples = [detection.make_sample(task == 'rotated_detection')] * 2
        else:
            samples = [finetuning.make_sample(task, cfg, seed) for seed in range(2)]
    images, labels = zip(*samples)
    return model.train(), dict(inputs=list(images), data_samples=[x.clone() for x in labels])


def damage(value, module, inputs, output):
    """Put a value into the first image that a module gives."""
    if isinstance(output, dict):
        return dict(output, inputs=damage(value, module, inputs, output['inputs']))
    if isinstance(output, list | tuple):
        return type(output)(damage(value, module, inputs, part) for part in output)
    damaged = output.clone()
    damaged[0, 0, 0, 0] = value
    return damaged


@pytest.mark.parametrize('task', ['pretraining', *RECIPES])
def test_a_bad_pixel_activation_or_loss_changes_nothing(task):
    model, batch = model_and_batch(task)
    optimizer = AdamW(model.parameters(), lr=1e-3, fused=True)
    wrappers = {amp: MixedPrecisionOptimWrapper(optimizer, amp=amp) for amp in ('off', 'on')}

    def step(amp):
        copied = dict(batch, data_samples=[sample.clone() for sample in batch['data_samples']])
        model.train_step(copied, wrappers[amp])
        assert optimizer.state
        states = [state.values() for state in optimizer.state.values()]
        values = [*model.state_dict().values(), *(value for state in states for value in state)]
        return [value.clone() for value in values], wrappers[amp].outcome.tolist()

    before, outcome = step('off')
    assert outcome == [0, 0, 0]
    for amp, module, value in [
        ('off', model.data_preprocessor, float('nan')),
        ('on', model.backbone, float('inf')),
        ('off', model.backbone, float('nan')),
    ]:
        handle = module.register_forward_hook(partial(damage, value))
        after, outcome = step(amp)
        handle.remove()
        assert outcome == [1, 1, 0] and all(map(torch.equal, after, before))
    parse = model.parse_losses
    model.parse_losses = lambda losses: (parse(losses)[0] * float('nan'), parse(losses)[1])
    after, outcome = step('off')
    assert outcome == [1, 1, 0] and all(map(torch.equal, after, before))


def test_rotated_operators_take_nan_in_a_training_step_alone():
    boxes = torch.tensor([[5.0, 5, 4, 4, 0], [float('nan'), 5, 4, 4, 0]])
    for operator in (
        partial(box_iou_rotated, boxes, boxes),
        partial(nms_rotated, boxes, boxes[:, 2], 0.5),
    ):
        with pytest.raises(ValueError, match='NaN or infinite numbers'):
            operator()
        with values_unchecked():
            assert operator().isfinite().all()
