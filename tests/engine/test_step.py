"""The loop around a training step: what it logs, and that it never waits for the device."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.optim import OptimWrapper

from mtp.engine import MixedPrecisionOptimWrapper
from mtp.engine.mixed_precision import autocast_dtype
from tests.engine.hooks.test_training import toy_runner
from tools.benchmark.counting.launches import LaunchCounter

CLIPPED = {'optim_wrapper.clip_grad': dict(max_norm=0.1)}
THEIRS = {
    **CLIPPED,
    'optim_wrapper.type': OptimWrapper,
    'default_hooks.runtime_info.type': RuntimeInfoHook,
}


# logged values that differ from run to run
SPEED = re.compile('time|memory|images_per_s|data_share')


def rows(runner):
    path = Path(runner.log_dir) / 'vis_data' / 'scalars.json'
    return [
        {key: value for key, value in json.loads(row).items() if not SPEED.search(key)}
        for row in path.read_text().splitlines()
    ]


def history(runner, key):
    return runner.message_hub.get_scalar(f'train/{key}').data


@pytest.fixture(scope='module')
def theirs(tmp_path_factory):
    runner = toy_runner(tmp_path_factory.mktemp('theirs'), **THEIRS)
    runner.train()
    return runner


def test_log_and_weights_equal_mmengines(theirs, tmp_path):
    ours = toy_runner(tmp_path, **CLIPPED)
    ours.train()
    assert len(rows(ours)) == 3 and rows(ours) == rows(theirs)
    assert 'grad_norm' in rows(ours)[0]
    for key in ('loss', 'grad_norm', 'sota.instance.acc'):
        for found, expected in zip(history(ours, key), history(theirs, key)):
            assert found.tolist() == expected.tolist()
    for name, value in theirs.model.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[name]), name


def test_log_survives_a_checkpoint_between_two_fetches(theirs, tmp_path):
    settings = {**CLIPPED, 'default_hooks.logger.interval': 5}
    first = toy_runner(tmp_path / 'first', **settings)
    first.train()
    second = toy_runner(
        tmp_path / 'second', resume=True, load_from=f'{first.work_dir}/iter_3.pth', **settings
    )
    second.train()
    for runner in (first, second):
        assert history(runner, 'loss')[0].tolist() == history(theirs, 'loss')[0].tolist()


class CountWaits(Hook):
    """Counts from the start of one iteration to that of the next."""

    priority = 'HIGHEST'

    def __init__(self):
        self.counter, self.waits = None, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.after_train(runner)
        self.counter = LaunchCounter().__enter__()
        self.iter = runner.iter

    def after_train(self, runner):
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.waits[self.iter + 1] = self.counter.syncs
            self.counter = None


def waits(work_dir, **changes):
    runner = toy_runner(work_dir, **{**changes, 'default_hooks.checkpoint.interval': 6})
    hook = CountWaits()
    runner.register_hook(hook)
    runner.train()
    return {iteration: syncs.total() for iteration, syncs in hook.waits.items()}


def test_no_step_waits(tmp_path):
    assert all(waits(tmp_path / 'theirs', **THEIRS).values())  # the count can tell
    # Fetching at an interval is a copy, which a CPU does not make.
    assert waits(tmp_path / 'ours', **CLIPPED) == dict.fromkeys(range(1, 7), 0)


def test_accumulated_steps_equal_one_large_step():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    parts, norms = [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 4.0])], []
    wrapper = MixedPrecisionOptimWrapper(
        torch.optim.SGD([weight], lr=1.0), clip_grad=dict(max_norm=1.0)
    )
    wrapper.start_update(2)
    for part in parts:
        wrapper.update_params((weight * part).sum())
        norms.append(wrapper.grad_norm)
    mean = torch.stack(parts).mean(0)
    assert norms[0] is None
    torch.testing.assert_close(norms[1], mean.norm())
    torch.testing.assert_close(weight.data, torch.tensor([1.0, 2.0]) - mean / mean.norm())


@pytest.mark.parametrize(
    ('amp', 'gpu', 'expected'),
    [
        ('auto', True, torch.bfloat16),
        ('auto', False, None),
        ('on', False, torch.bfloat16),
        ('off', True, None),
    ],
)
def test_precision(monkeypatch, amp, gpu, expected):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: True)
    assert autocast_dtype(amp) == expected
    with pytest.raises(ValueError, match="'auto', 'on' or 'off'"):
        autocast_dtype('yes')
