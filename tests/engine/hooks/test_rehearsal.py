"""What runs in week three is tried before step 1, and leaves no trace."""
import argparse
import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.runner import ValLoop

from mtp.cli import launch
from mtp.data.synthetic import make_samrs
from mtp.engine import ExportEncoderHook
from mtp.engine.batch_size import share_batch
from mtp.engine.hooks import rehearsal
from mtp.engine.hooks.rehearsal import RehearsalError
from mtp.evaluation import MultiTaskMetric
from tests.engine.hooks.test_training import toy_runner
from tests.tools.toy import ToyDataset, ToyMetric

DEMO = Path(__file__).parents[2] / 'configs/pretrain/vit_tiny_rvsa_demo.py'
VALIDATION = dict(batch_size=2, num_workers=0, dataset=dict(type=ToyDataset),
                  sampler=dict(type=DefaultSampler, shuffle=False))
REHEARSE = {'default_hooks.rehearsal.min_iters': 1, 'val_dataloader': VALIDATION,
            'val_cfg': dict(type=ValLoop), 'val_evaluator': dict(type=ToyMetric)}


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """The demo's config, for an iteration on few images."""
    data = make_samrs(tmp_path_factory.mktemp('data') / 'samrs', num_train=3, num_valid=2)
    roots = {f'{loader}_dataloader.dataset.datasets.{i}.data_root': str(data / name)
             for loader in ('train', 'val') for i, name in enumerate(('SOTA', 'SIOR', 'FAST'))}
    workers = {f'{loader}_dataloader.{key}': value for loader in ('train', 'val')
               for key, value in (('num_workers', 0), ('persistent_workers', False))}
    cfg = launch.load_config(argparse.Namespace(
        config=DEMO, work_dir=None, launcher='none', cfg_options={
            **roots, **workers, 'train_cfg.max_iters': 1, 'train_cfg.val_begin': 100,
            'model.backbone.drop_path_rate': 0.3}))
    share_batch(cfg, 1)
    cfg.param_scheduler = None  # which needs more iterations
    return cfg


def demo_runner(demo: Config, work_dir: Path, min_iters: int | None):
    cfg = copy.deepcopy(demo)
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    cfg.default_hooks.rehearsal.min_iters = min_iters
    return launch.build_runner(cfg)


def after(runner):
    """Everything that a run leaves, after seeding what it does not seed itself."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    runner.train()
    logged = {name: buffer.data[0].tolist() for name, buffer in
              runner.message_hub.log_scalars.items() if 'time' not in name}
    return (logged, random.random(), np.random.rand(), torch.rand(2).tolist(),
            sorted(path.name for path in Path(runner.work_dir).glob('*.pth')),
            {name: value.tolist() for name, value in runner.model.state_dict().items()})


@pytest.mark.slow
def test_the_demo_trains_on_as_without(demo, tmp_path, monkeypatch):
    seen, process = [], MultiTaskMetric.process

    def spy(self, data_batch, data_samples):
        seen.append([sample['dataset'] for sample in data_samples])
        process(self, data_batch, data_samples)
    monkeypatch.setattr(MultiTaskMetric, 'process', spy)
    plain = after(demo_runner(demo, tmp_path / 'plain', None))
    assert not seen
    rehearsed = after(demo_runner(demo, tmp_path / 'rehearsed', 1))
    assert len(seen) == 2 and set(sum(seen, [])) == {'sota', 'sior', 'fast'}
    assert rehearsed == plain


def test_short_runs_go_without_and_a_resumed_one_rehearses_with_its_states(tmp_path, monkeypatch):
    tried, really = [], rehearsal._try
    monkeypatch.setattr(rehearsal, '_try', lambda what, *args, **kwargs: (
        tried.append(what), really(what, *args, **kwargs))[1])
    whole = toy_runner(tmp_path / 'whole')
    whole.train()
    assert not tried
    resumed = toy_runner(tmp_path / 'resumed', resume=True,
                         load_from=f'{tmp_path}/whole/iter_3.pth', **REHEARSE)
    resumed.train()
    assert {'the metric of the validation', 'reading a checkpoint back',
            'reading the encoder back'} <= set(tried)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def _raise(error):
    raise error


def test_a_failure_is_one_error(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path, **REHEARSE)
    save = runner.save_checkpoint

    def add_one(*args, **kwargs):
        save(*args, **kwargs)
        runner.model.head.weight.data += 1
    for save_checkpoint, message in [
            (lambda *args, **kwargs: _raise(OSError('no space left')),
             'saving a checkpoint, .* failed: OSError: no space left. To train all the same'),
            (add_one, 'reading a checkpoint back, .* entries differ .* head.weight')]:
        monkeypatch.setattr(runner, 'save_checkpoint', save_checkpoint)
        with pytest.raises(RehearsalError, match=message):
            runner.train()
    monkeypatch.setattr(runner, 'save_checkpoint', save)
    monkeypatch.setattr(ExportEncoderHook, 'export', lambda *args: _raise(ValueError('no encoder')))
    with pytest.raises(RehearsalError, match='exporting the encoder, .* ValueError: no encoder'):
        runner.train()


def test_all_processes_end_when_one_fails(monkeypatch):
    monkeypatch.setattr(rehearsal, 'all_gather_object', lambda text: [text, 'OSError: no space'])
    with pytest.raises(RehearsalError, match='failed on 1 of 2 processes, first on 1: OSError: no'):
        rehearsal._try('saving', lambda: None)
    monkeypatch.setattr(rehearsal, 'is_main_process', lambda: False)
    with pytest.raises(SystemExit):
        rehearsal._try('saving', lambda: None)
