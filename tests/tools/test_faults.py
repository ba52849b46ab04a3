"""The campaign of faults in short: a kill while a checkpoint is written, and a NaN."""

import sys

import pytest
from mmengine.config import Config

from tests.tools.test_train import REPO

BENCHMARKS = str(REPO / 'tools' / 'benchmark')


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.chdir(REPO)
    from campaign import injection, small, trial

    cfg = Config.fromfile('tests/tools/toy_config.py')
    cfg.model.type = 'tests.engine.test_bad_updates.NormedToy'
    cfg.train_cfg.max_iters = cfg.param_scheduler[0].T_max = small.STEPS
    cfg.default_hooks.checkpoint.update(interval=small.EVERY, max_keep_ckpts=2)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pop('export_encoder')
    cfg.visualizer.vis_backends = []
    cfg.custom_hooks = [small.EMA]
    for part in ('cfg', 'dataloader', 'evaluator'):
        cfg[f'test_{part}'] = None
    config = tmp_path / 'toy.py'
    cfg.dump(config)
    monkeypatch.setattr(small, 'make', lambda recipe, folder: config)
    monkeypatch.setattr(injection, '_environment', dict)
    monkeypatch.setattr(small, 'PAUSE', 0.05)  # the toy's steps take milliseconds
    yield trial.Campaign(tmp_path)
    for name in [name for name in sys.modules if name.split('.')[0] == 'campaign']:
        del sys.modules[name]


def test_a_kill_in_writing_and_a_nan_lose_nothing(campaign):
    from campaign.plan import Fault

    for kind in ('kill in writing', 'NaN in an activation'):
        row = campaign.run(Fault(kind, 'mmseg', 1))
        assert row['recovered'] and not row['lost'] and not row['differences'], row
        assert any(code != 0 for code in row['codes'])
