"""Whole runs with captured steps equal runs without, faults, averages and resumes among them."""

import pytest
import torch
from mmengine.hooks import EMAHook

from mtp.engine import CaptureHook, FastEMA
from mtp.engine.hooks import capture
from mtp.fallback import FallbackError
from tests.engine.hooks.test_training import toy_runner
from tests.engine.test_bad_updates import NAN, Fault, state
from tests.engine.test_captured_steps import Repeat


def make_runner(work_dir, mode='on', accumulation=1, **changes):
    return toy_runner(
        work_dir,
        **{
            'model.type': 'tests.engine.test_bad_updates.NormedToy',
            'train_cfg.accumulation': accumulation,
            'optim_wrapper.clip_grad': dict(max_norm=0.1),
            'default_hooks.capture': dict(type=CaptureHook, mode=mode),
            'custom_hooks': [dict(type=EMAHook, ema_type=FastEMA, momentum=0.25)],
            **changes,
        },
    )


@pytest.fixture
def repeated(monkeypatch):
    """Record by a function that is called again, on a machine without a GPU."""
    monkeypatch.setattr(capture, 'CUDAGraphs', Repeat)
    monkeypatch.setattr(capture, 'reason_against', lambda runner: None)


def log_of(runner):
    return {key: value.data[0].tolist() for key, value in runner.message_hub.log_scalars.items()}


@pytest.mark.parametrize('accumulation', [1, 3])
def test_a_captured_run_equals_another_one(accumulation, tmp_path, repeated):
    """The run is resumed after three updates; the fifth has a NaN."""
    runs = {}
    for mode in ('off', 'on'):
        for steps, resume in ((3, False), (6, True)):
            begin = dict(resume=True, load_from=f'{tmp_path}/{mode}/iter_3.pth') if resume else {}
            runner = make_runner(
                tmp_path / mode, mode, accumulation, **{'train_cfg.max_iters': steps, **begin}
            )
            runner.register_hook(Fault('pixel', NAN, updates=(4,)))
            runner.train()
        runs[mode] = runner
    (hook,) = (h for h in runs['on'].hooks if isinstance(h, CaptureHook))
    assert hook.steps.replays == 3 * accumulation and hook.steps.others == 0
    # the rates on the device have 7 digits
    torch.testing.assert_close(state(runs['on']), state(runs['off']), rtol=1e-5, atol=1e-7)
    on, off = map(log_of, (runs['on'], runs['off']))
    names = [name for name in off if 'loss' in name or 'norm' in name or 'bad' in name]
    assert 'train/grad_norm' in names and 'train/bad_updates' in names
    for name in names:
        torch.testing.assert_close(on[name], off[name], rtol=1e-5, atol=0, equal_nan=True)


def test_where_steps_cannot_be_captured_auto_is_silent_and_on_falls_back(tmp_path):
    runner = make_runner(tmp_path / 'auto', 'auto')
    runner.train()
    assert runner.iter == 6
    with pytest.raises(FallbackError, match='there is no GPU'):
        make_runner(tmp_path / 'on', 'on').train()
    with pytest.raises(ValueError, match="mode='yes'"):
        CaptureHook('yes')


def test_auto_takes_the_models_that_are_known(tmp_path, repeated):
    runner = make_runner(tmp_path, 'auto')
    runner.train()
    (hook,) = (h for h in runner.hooks if isinstance(h, CaptureHook))
    assert hook.steps is None
