"""The average of the weights: equal to mmengine's, without waiting, and resumed."""

import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mtp.engine import FastEMA
from tests.engine.hooks.test_training import toy_runner
from tools.benchmark.counting.launches import LaunchCounter


@pytest.mark.parametrize('settings', [{}, dict(interval=2), dict(update_buffers=True)])
def test_equals_mmengines_and_does_not_wait(settings):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(2, 2))
    ours, theirs = (
        type_(copy.deepcopy(model), momentum=0.3, **settings)
        for type_ in (FastEMA, ExponentialMovingAverage)
    )
    for step in range(5):
        with torch.no_grad():
            for param in model.parameters():
                param.normal_()
        model[:2](torch.randn(2, 3, 2, 2))  # which moves batch norm's statistics
        theirs.update_parameters(model)
        with LaunchCounter() as counter:
            ours.update_parameters(model)
        assert counter.syncs.total() == (step == 0)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_resumed_average_equals_the_uninterrupted_one(tmp_path):
    hooks = [dict(type=EMAHook, ema_type=FastEMA, momentum=0.3)]
    whole = toy_runner(tmp_path / 'whole', custom_hooks=hooks)
    whole.train()
    resumed = toy_runner(
        tmp_path / 'resumed',
        custom_hooks=hooks,
        resume=True,
        load_from=f'{whole.work_dir}/iter_3.pth',
    )
    resumed.train()
    expected, found = (
        torch.load(f'{runner.work_dir}/iter_6.pth', weights_only=False)
        for runner in (whole, resumed)
    )
    assert expected['ema_state_dict']['steps'] == 6
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in expected[key].items():
            assert torch.equal(value, found[key][name]), name
    average = expected['state_dict']['head.weight']
    assert not torch.equal(average, expected['ema_state_dict']['module.head.weight'])
