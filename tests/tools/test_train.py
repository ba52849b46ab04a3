"""The command lines: options, resuming, refused checkpoints."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtp.cli.config import override
from mtp.engine.shards import check_checkpoint
from mtp.models import build_backbone
from mtp.ops import mmcv_ext
from tests.tools.toy import ToyModel

REPO = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name('toy_config.py'))


def run_tool(monkeypatch, name: str, *args: str | Path) -> None:
    """``python tools/NAME.py ARGS``, without the imports of a process of its own."""
    path = REPO / 'tools' / f'{name}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), *map(str, args)])
    monkeypatch.setattr(sys, 'path', [str(path.parent), *sys.path])  # as python does
    runpy.run_path(str(path), run_name='__main__')


@pytest.fixture
def toy() -> Config:
    return Config.fromfile(TOY)


def test_train_resume_and_test(monkeypatch, tmp_path):
    work_dir = tmp_path / 'run'
    run_tool(
        monkeypatch,
        'train',
        TOY,
        '--work-dir',
        str(work_dir),
        '--amp',
        'on',
        '--cfg-options',
        'train_cfg.max_iters=3',
        'experiment_name=cli1',
    )
    assert (work_dir / 'encoder.pth').is_file()

    # The resolved config is itself a config: train on from it, in a folder that has moved.
    moved = work_dir.rename(tmp_path / 'moved')
    run_tool(
        monkeypatch,
        'train',
        str(moved / 'toy_config.py'),
        '--work-dir',
        str(moved),
        '--resume',
        '--cfg-options',
        'train_cfg.max_iters=5',
        'experiment_name=cli2',
    )
    assert (moved / 'iter_5.pth').is_file()

    metrics = {}
    for checkpoint in ('untrained', str(moved / 'iter_5.pth')):
        run_tool(
            monkeypatch,
            'test',
            TOY,
            checkpoint,
            '--work-dir',
            str(tmp_path / 'test'),
            '--cfg-options',
            f'experiment_name=cli{len(metrics) + 3}',
        )
        metrics[checkpoint] = json.loads((tmp_path / 'test' / 'metrics.json').read_text())['mean']
    assert len(set(metrics.values())) == 2


@pytest.mark.usefixtures('deterministic')  # which puts the switch back
def test_deterministic_training(monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', False)
    torch.use_deterministic_algorithms(False)
    run_tool(
        monkeypatch,
        'train',
        TOY,
        '--work-dir',
        str(tmp_path),
        '--deterministic',
        '--cfg-options',
        'train_cfg.max_iters=1',
        'experiment_name=deterministic',
    )
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'


def test_deterministic_training_beside_a_compiled_mmcv_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(mmcv_ext, 'choice', lambda: 'native')
    with pytest.raises(SystemExit, match='--deterministic: .*set MTP_OPS=portable'):
        run_tool(monkeypatch, 'train', TOY, '--work-dir', str(tmp_path), '--deterministic')


def test_resume_without_a_checkpoint_is_refused(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match='nothing to resume in'):
        run_tool(monkeypatch, 'train', TOY, '--work-dir', str(tmp_path), '--resume')


def test_missing_config_names_its_neighbours(monkeypatch):
    with pytest.raises(SystemExit, match='no config at .*did you mean toy_config.py'):
        run_tool(monkeypatch, 'train', TOY.replace('toy_config', 'toy_confg'))


@pytest.mark.parametrize(
    ('launcher', 'environment', 'gpus', 'message'),
    [
        ('pytorch', {}, 0, 'start this command with torchrun'),
        ('slurm', {}, 8, 'start this command with srun'),
        ('slurm', {'SLURM_PROCID': '0'}, 0, 'ask srun for GPUs'),
        ('pytorch', {'RANK': '2', 'LOCAL_RANK': '2'}, 2, 'process 2 of this machine has no GPU'),
        ('slurm', {'SLURM_PROCID': '9', 'SLURM_LOCALID': '1'}, 1, 'process 1 of this machine'),
    ],
)
def test_launcher_without_its_processes_or_gpus_is_refused(
    monkeypatch, tmp_path, launcher, environment, gpus, message
):
    for name in ('RANK', 'LOCAL_RANK', 'SLURM_PROCID', 'SLURM_LOCALID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    with pytest.raises(SystemExit, match=message):
        run_tool(monkeypatch, 'train', TOY, '--work-dir', str(tmp_path), '--launcher', launcher)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('model.bakbone.dropout', r"model has no key 'bakbone' \(did you mean backbone\?\)"),
        ('optim_wrapper.optimizer.weight_decoy', r'did you mean weight_decay\?'),
        ('param_scheduler.1.T_max', r"param_scheduler has no key '1'"),
        ('model.backbone.dropout.rate', r"model.backbone.dropout has no key 'rate'"),
        ('work_dri', r'did you mean work_dir\?'),
        ('default_hooks.checkpoint.intervall', r'did you mean interval\?'),
    ],
)
def test_unknown_option_is_refused(toy, key, message):
    with pytest.raises(ValueError, match=message):
        override(toy, {key: 1})


def test_options_reach_values_lists_and_arguments_left_to_their_default(toy):
    toy.encoder = dict(type=build_backbone, name='vit_b')
    override(
        toy,
        {
            'param_scheduler.0.T_max': 4,
            'model.backbone.dropout': 0.1,
            'model.width': 16,
            'optim_wrapper.optimizer.weight_decay': 0.3,
        },
    )
    assert toy.param_scheduler[0].T_max == 4
    assert toy.param_scheduler[0].by_epoch is False
    assert toy.model.backbone.dropout == 0.1
    assert toy.model.width == 16
    override(toy, {'encoder.window_size': 4})  # which build_backbone passes on
    assert toy.encoder.window_size == 4
    assert toy.optim_wrapper.optimizer.weight_decay == 0.3
    assert toy.optim_wrapper.optimizer.lr == 1e-2
    sgd = {
        'optim_wrapper.optimizer.momentum': 0.9,
        'optim_wrapper.optimizer.type': 'torch.optim.SGD',
    }
    override(toy, sgd)
    assert toy.optim_wrapper.optimizer.momentum == 0.9


def test_checkpoint_that_does_not_fit_is_refused(tmp_path):
    model = ToyModel(backbone={'dropout': 0.0})
    path = tmp_path / 'model.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    check_checkpoint(model, path)

    state = model.state_dict()
    state['bias'] = state.pop('head.bias')
    state['head.weight'] = state['head.weight'][:, :4]
    torch.save({'state_dict': state}, path)
    with pytest.raises(ValueError, match='does not fit') as error:
        check_checkpoint(model, path)
    assert '1 missing from the file: head.bias' in str(error.value)
    assert '1 unknown to the model: bias' in str(error.value)
    assert '1 of another shape: head.weight (1, 4) instead of (1, 8)' in str(error.value)

    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match='truncated'):
        check_checkpoint(model, path)


@pytest.mark.parametrize('asked', ['5', '7:5', 'a:b'])
def test_iterations_to_profile_are_a_range(asked, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, 'train', TOY, '--profile', asked)
    assert 'is not START:STOP' in capsys.readouterr().err
