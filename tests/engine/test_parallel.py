"""Copies, shards and one process train alike, and read each other's checkpoints."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mtp.cli import launch
from mtp.cli.config import override
from mtp.engine import Runner
from mtp.engine.hooks import capture
from mtp.engine.shards import merge_shards, whole_state_dict
from mtp.registry import MODELS
from tests.distributed import run_processes
from tests.engine.test_captured_steps import Repeat

CONFIG = Path(__file__).with_name('parallel_config.py')
COPIES, SHARDS = dict(type='mtp.engine.ReplicatedModel'), dict(type='mtp.engine.ShardedModel')
ITERATIONS = 3
Run = tuple[dict[str, list[float]], dict[str, Tensor]]


def _config(
    world_size: int, work_dir: Path, wrapper: dict = COPIES, tasks: tuple[str, ...] = (), **options
) -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            'work_dir': str(work_dir),
            'launcher': 'pytorch' if world_size > 1 else 'none',
            'experiment_name': str(work_dir),
            'model_wrapper_cfg': wrapper,
            'train_dataloader.batch_size': 8 // world_size,
            'train_cfg.max_iters': ITERATIONS,
            **options,
        }
    )
    if tasks:
        cfg.model.tasks = {task: cfg.model.tasks[task] for task in tasks}
        for dataset in cfg.model.datasets.values():
            dataset.tasks = tasks
    return cfg


def _train(world_size: int, work_dir: Path, wrapper: dict = COPIES, **options) -> Run:
    """Losses and gradient norms by name, a value for each iteration, and the weights."""
    runner = launch.build_runner(_config(world_size, work_dir, wrapper, **options))
    runner.train()
    return _results(runner)


def _results(runner: Runner) -> Run:
    logged = {
        name: buffer.data[0].tolist()
        for name, buffer in runner.message_hub.log_scalars.items()
        if 'loss' in name or 'grad_norm' in name
    }
    weights = whole_state_dict(runner.bare_model)
    return logged, {name: value.clone() for name, value in weights.items()}


def _assert_alike(found: Run, expected: Run, tolerance: float = 2e-3) -> None:
    assert set(found[0]) == set(expected[0]) and len(found[0]) > 3
    for name, values in expected[0].items():
        assert found[0][name] == pytest.approx(values, rel=tolerance, abs=tolerance), name
    for name, value in expected[1].items():
        torch.testing.assert_close(
            found[1][name],
            value,
            rtol=tolerance,
            atol=tolerance / 10,
            msg=lambda text, name=name: f'{name}: {text}',
        )


def _on_four(rank: int, folder: Path) -> dict[str, Run]:
    return {
        'shards': _train(4, folder / 'four', SHARDS),
        'two copies in shards': _train(4, folder / 'hybrid', dict(SHARDS, processes_per_copy=2)),
    }


def _on_two(rank: int, folder: Path) -> dict[str, Run]:
    return {
        'copies': _train(2, folder / 'copies'),
        'shards': _train(2, folder / 'shards', SHARDS),
        'shards from shards': _train(
            2, folder / 'reshard', SHARDS, resume=True, load_from=str(folder / 'four/iter_2.pth')
        ),
        'shards from a file': _train(
            2, folder / 'split', SHARDS, resume=True, load_from=str(folder / 'one/iter_2.pth')
        ),
    }


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('parallel')


@pytest.fixture(scope='module')
def one(folder) -> Run:
    return _train(1, folder / 'one')


@pytest.fixture(scope='module')
def four(folder) -> list[dict[str, Run]]:
    return run_processes(_on_four, 4, folder)


@pytest.mark.slow
def test_two_and_four_processes_train_like_one_and_resume_on_another_number(one, four, folder):
    for results in (four, run_processes(_on_two, 2, folder)):
        for name, run in results[0].items():
            _assert_alike(run, one)
            for other in results[1:]:
                assert other[name][0] == run[0], 'losses are logged alike on all processes'


@pytest.mark.slow
def test_shards_of_four_processes_resume_on_one_and_as_one_file(one, four, folder):
    shards = folder / 'four' / 'iter_2.pth'
    assert shards.is_dir()
    found = _train(1, folder / 'whole', resume=True, load_from=str(shards))
    _assert_alike(found, one)

    merge_shards(shards, folder / 'merged.pth')
    again = _train(1, folder / 'file', resume=True, load_from=str(folder / 'merged.pth'))
    assert again[0] == found[0]
    assert all(torch.equal(again[1][name], value) for name, value in found[1].items())


def _captured(rank: int, folder: Path) -> dict[str, Run]:
    """Train by steps that are called again in place of a graph, all but the first."""
    # rates that are the same in float32, which they have on the device
    options = {
        'optim_wrapper.optimizer': dict(lr=2**-10, fused=True),
        'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.5,
        'param_scheduler': [],
    }
    twice = {'train_cfg.accumulation': 2, 'train_dataloader.batch_size': 2}
    runs = {
        'not captured': _train(2, folder / 'not', SHARDS, **options),
        'accumulated': _train(2, folder / 'twice', SHARDS, **options, **twice),
    }
    options['default_hooks.capture.mode'] = 'on'
    for name, wrapper, more in (
        ('shards', SHARDS, {}),
        ('accumulated shards', SHARDS, twice),
        ('copies', COPIES, {}),
    ):
        runner = launch.build_runner(_config(2, folder / name, wrapper, **options, **more))
        with patch.multiple(
            capture,
            CUDAGraphs=Repeat,
            reason_against=lambda runner: None,
            WARMUP=dict.fromkeys(capture.WARMUP, batches := more.get('train_cfg.accumulation', 1)),
        ):
            runner.train()
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, capture.CaptureHook))
        assert hook.steps is not None and hook.steps.replays == (ITERATIONS - 1) * batches
        assert any(hook.steps._places)  # of shards too, of which some are empty
        runs[name] = _results(runner)
    return runs


@pytest.mark.slow
def test_captured_steps_of_two_processes_train_like_others(tmp_path):
    runs, _ = run_processes(_captured, 2, tmp_path)
    for name in ('shards', 'copies'):
        _assert_alike(runs[name], runs['not captured'], 1e-4)
    _assert_alike(runs['accumulated shards'], runs['accumulated'], 1e-4)


def _other_settings(rank: int, folder: Path) -> tuple[dict[str, Run], int, list[float]]:
    few = dict(tasks=('semantic',))
    # the same images twice an update, so that nothing but the statistics of batch norm changes
    accumulate = {'train_cfg.accumulation': 2, **few}
    runs = {
        'compressed': _train(2, folder / 'c', dict(COPIES, compress_gradients=True), **few),
        'copies, accumulated': _train(2, folder / 'ca', **accumulate),
        'shards, accumulated': _train(
            2, folder / 'sa', SHARDS, **accumulate, **{'default_hooks.rehearsal.min_iters': 1}
        ),
    }

    runner = launch.build_runner(_config(2, folder / 'plain', SHARDS, **few))
    runner.train()
    runs['plain'] = _results(runner)
    runner.model.eval()
    batch = next(iter(runner.train_dataloader))
    predictions = [runner.model.val_step(batch) for _ in range(1 + rank)]
    runner.model.train()
    losses = runner.model.train_step(batch, runner.optim_wrapper)
    return runs, len(predictions), [float(value) for value in losses.values()]


@pytest.mark.slow
def test_compressed_and_accumulated_gradients_and_uneven_evaluation(tmp_path):
    (runs, first, losses), (_, second, other) = run_processes(_other_settings, 2, tmp_path)
    _assert_alike(runs['compressed'], runs['plain'], tolerance=2e-2)
    _assert_alike(runs['shards, accumulated'], runs['copies, accumulated'])
    for name, values in runs['plain'][0].items():
        assert runs['copies, accumulated'][0][name] == pytest.approx(values, rel=2e-3), name
    # Processes that evaluate different numbers of batches do not wait for each other.
    assert (first, second) == (1, 2) and losses == other


def test_group_norm_by_one_option():
    cfg = Config.fromfile(CONFIG)
    norm = 'model.tasks.semantic.decode_head.norm_cfg'
    override(cfg, {f'{norm}.type': 'GN', f'{norm}.num_groups': 32})
    kinds = [type(module) for module in MODELS.build(cfg.model).modules()]
    assert nn.GroupNorm in kinds and not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
