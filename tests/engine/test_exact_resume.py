"""A run that goes on from any checkpoint is the run that was never interrupted."""

import copy
from pathlib import Path

import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import ValLoop

from mtp.engine import AccumulatingEpochLoop, FastEMA, Runner
from mtp.engine.shards import whole_state_dict
from tests.distributed import run_processes
from tests.engine.hooks.test_training import toy_runner
from tests.engine.test_step import SPEED
from tests.tools.toy import NoisyDataset, ToyDataset, ToyMetric

SAVED = Path(__file__).with_name('saved_by_6b6fbd6')
EMA = dict(type=EMAHook, ema_type=FastEMA, momentum=0.3)
SHUFFLED = dict(type=DefaultSampler, shuffle=True, _delete_=True)
ITERATIONS = {'train_cfg.max_iters': 10, 'train_cfg.val_interval': 4}
EPOCHS = {
    'train_cfg': dict(type=AccumulatingEpochLoop, max_epochs=3, val_interval=2, _delete_=True),
    'train_dataloader.sampler': SHUFFLED,
    'param_scheduler': [
        dict(type=LinearLR, start_factor=0.1, end=1, by_epoch=True, convert_to_iter_based=True),
        dict(type=CosineAnnealingLR, begin=1, T_max=2, by_epoch=True),
    ],
    'log_processor.by_epoch': True,
    'log_processor.window_size': 3,
}
RUNS = {
    'iterations': ITERATIONS,
    'iterations, a sampler that ends': {**ITERATIONS, 'train_dataloader.sampler': SHUFFLED},
    'iterations, accumulated': {**ITERATIONS, 'train_cfg.accumulation': 2},
    'epochs': EPOCHS,
    'epochs, accumulated': {**EPOCHS, 'train_cfg.accumulation': 3},
    'epochs, buckets': {
        **EPOCHS,
        'train_dataloader.batch_sampler': dict(type=AspectRatioBatchSampler),
    },
}


class Record(Hook):
    """Remembers which hooks were called when, with which images."""

    def __init__(self) -> None:
        self.calls: list = []

    def _note(self, runner: Runner, what: str, *more) -> None:
        self.calls.append((what, runner.epoch, runner.iter, *more))

    def before_train_epoch(self, runner):
        self._note(runner, 'before_train_epoch')

    def after_train_epoch(self, runner, metrics=None):
        self._note(runner, 'after_train_epoch')

    def before_val_epoch(self, runner):
        self._note(runner, 'before_val_epoch')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        batches = data_batch if isinstance(data_batch, list) else [data_batch]
        images = [image.tolist() for batch in batches for image in batch['inputs']]
        self._note(runner, 'before_train_iter', batch_idx, images)


def train(work_dir: Path, changes: dict, **options) -> tuple[Runner, list]:
    """A run that validates, with its averages, and saves after each step."""
    changes = {
        'train_dataloader.dataset.type': NoisyDataset,
        'val_dataloader': dict(
            batch_size=2,
            num_workers=0,
            dataset=dict(type=ToyDataset),
            sampler=dict(type=DefaultSampler, shuffle=False),
        ),
        'val_cfg': dict(type=ValLoop),
        'val_evaluator': dict(type=ToyMetric),
        'custom_hooks': [EMA],
        'visualizer.vis_backends': [],
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint': dict(interval=1, max_keep_ckpts=-1, by_epoch=False),
        **changes,
        **options,
    }
    runner = toy_runner(work_dir, **copy.deepcopy(changes))  # of which mmengine takes out keys
    record = Record()
    runner.register_hook(record)
    runner.train()
    return runner, record.calls


def state(runner: Runner) -> dict:
    """All that the last checkpoint of a run holds, but for times and paths."""
    path = Path(runner.work_dir) / (Path(runner.work_dir) / 'last_checkpoint').read_text().strip()
    saved = torch.load(path, weights_only=False)
    hub = saved.pop('message_hub')
    log = {
        name: [part.tolist() for part in buffer.data]
        for name, buffer in hub['log_scalars'].items()
        if not SPEED.search(name)
    }
    info = {key: hub['runtime_info'].get(key) for key in ('epoch', 'iter', 'best_score')}
    meta = saved.pop('meta')
    return dict(saved, log=log, info=info, place=(meta['epoch'], meta['iter']))


def assert_equal(found, expected, where: str = '') -> None:
    """Equal to the bit, through dicts and lists."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key, value in expected.items():
            assert_equal(found[key], value, f'{where}.{key}')
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, list | tuple) and any(isinstance(x, dict) for x in expected):
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f'{where}.{number}')
    else:
        assert found == expected, where


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch) -> None:
    """mmengine's iterator sleeps for two seconds wherever a sampler ends."""
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Uninterrupted runs by name, each made once."""
    made = {}

    def get(name: str) -> tuple[Runner, list]:
        if name not in made:
            made[name] = train(tmp_path_factory.mktemp('whole'), RUNS[name])
        return made[name]

    return get


def resume(work_dir: Path, run: Runner, changes: dict, iteration: int, **options):
    path = Path(run.work_dir) / f'iter_{iteration}.pth'
    NoisyDataset.read.clear()
    return train(work_dir, changes, resume=True, load_from=str(path), **options)


def no_begin(calls: list, iteration: int = 0) -> list:
    return [call for call in calls if call[0] != 'before_train_epoch' and call[2] >= iteration]


@pytest.mark.parametrize('iteration', [3, 4])  # within an epoch and, of most of them, at its end
@pytest.mark.parametrize('name', RUNS)
def test_resumed_run_equals_the_uninterrupted_one(whole, tmp_path, name, iteration):
    run, calls = whole(name)
    resumed, again = resume(tmp_path, run, RUNS[name], iteration)
    assert no_begin(again) == no_begin(calls, iteration)
    assert_equal(state(resumed), state(run))
    images = [image for call in again if call[0] == 'before_train_iter' for image in call[-1]]
    assert len(NoisyDataset.read) == len(images), 'what was read before is read again'


def test_workers_do_not_matter(whole, tmp_path):
    run, _ = whole('epochs, buckets')
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    resumed, _ = resume(tmp_path, run, RUNS['epochs, buckets'], 5, **options)
    assert_equal(state(resumed), state(run))


def test_checkpoints_of_epochs_and_the_choice_of_the_best(tmp_path):
    checkpoint = dict(by_epoch=True, interval=1, save_best='mean', rule='less')
    changes = {**EPOCHS, 'default_hooks.checkpoint': dict(checkpoint, max_keep_ckpts=-1)}
    run, _ = train(tmp_path / 'whole', changes, **{'train_cfg.val_interval': 1})
    for epoch in (1, 2, 3):
        resumed, calls = train(
            tmp_path / f'{epoch}',
            changes,
            **{'train_cfg.val_interval': 1},
            resume=True,
            load_from=f'{run.work_dir}/epoch_{epoch}.pth',
        )
        best = Path(resumed.message_hub.get_info('best_ckpt')).name
        assert best == Path(run.message_hub.get_info('best_ckpt')).name
        values = [r.message_hub.get_scalar('val/mean').data[0].tolist() for r in (run, resumed)]
        assert values[0] == values[1] and len(values[0]) == 3
        assert all(map(torch.equal, *(list(r.model.state_dict().values()) for r in (run, resumed))))


class Interrupted(ToyMetric):
    """A metric in which a run ends."""

    def compute_metrics(self, results):
        raise InterruptedError


def test_a_run_that_ends_in_a_validation_validates_first(tmp_path):
    changes = {**ITERATIONS, 'default_hooks.checkpoint': dict(interval=100, by_epoch=False)}
    with pytest.raises(InterruptedError):
        train(tmp_path, changes, val_evaluator=dict(type=Interrupted))
    saved = tmp_path / 'iter_4.pth'  # begun by PreemptionHook before the validation
    _, calls = train(tmp_path, changes, resume=True, load_from=str(saved))
    assert calls[0] == ('before_val_epoch', 0, 4)


def test_a_seed_left_to_chance_is_that_of_the_checkpoint(tmp_path):
    runs = {**EPOCHS, 'randomness.seed': None}
    run, calls = train(tmp_path / 'whole', runs)
    resumed, again = resume(tmp_path / 'resumed', run, runs, 3)
    assert no_begin(again) == no_begin(calls, 3)


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_checkpoints_of_an_earlier_commit_go_on(tmp_path, kind):
    changes = {'train_dataloader.dataset.type': ToyDataset, 'val_cfg': None}
    changes |= {'val_dataloader': None, 'val_evaluator': None, 'train_cfg.max_iters': 6}
    if kind == 'folder':
        changes |= {'custom_hooks': [], 'model.backbone.dropout': 0.0}
    run, _ = train(tmp_path / 'whole', changes)
    resumed, calls = train(
        tmp_path / 'resumed', changes, resume=True, load_from=str(SAVED / kind / 'iter_3.pth')
    )
    assert [call[2] for call in no_begin(calls)][:3] == [3, 4, 5]
    for key, value in state(run)['state_dict'].items():
        torch.testing.assert_close(state(resumed)['state_dict'][key], value)
    if kind == 'file':
        for key, value in state(run)['ema_state_dict'].items():
            torch.testing.assert_close(state(resumed)['ema_state_dict'][key], value)


def _on_two(rank: int, folder: Path) -> tuple[list, list, dict, dict]:
    changes = {**EPOCHS, 'train_dataloader.batch_size': 1, 'launcher': 'pytorch'}
    changes['env_cfg.dist_cfg.backend'] = 'gloo'
    run, calls = train(folder / 'whole', changes)
    resumed, again = resume(folder / 'resumed', run, changes, 3)
    return calls, again, whole_state_dict(run.bare_model), whole_state_dict(resumed.bare_model)


@pytest.mark.slow
def test_two_processes_resume_exactly_and_see_what_one_sees(whole, tmp_path):
    _, calls = whole('epochs')
    ranks = run_processes(_on_two, 2, tmp_path)
    for expected, found, weights, again in ranks:
        assert no_begin(found) == no_begin(expected, 3)
        assert_equal(again, weights)
    for one, *two in zip(no_begin(calls), *(no_begin(rank[0]) for rank in ranks)):
        if one[0] == 'before_train_iter' and one[3] < 3:  # the last has what makes it divisible
            assert one[-1] == two[0][-1] + two[1][-1]


def _accumulated_on_two(rank: int, folder: Path) -> tuple[dict, dict]:
    changes = {'train_cfg.max_iters': 4, 'train_cfg.accumulation': 2, 'launcher': 'pytorch'}
    # without the validation, which makes it longer
    changes |= {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}
    changes |= {'model_wrapper_cfg': dict(type='mtp.engine.ReplicatedModel')}
    run, _ = train(folder / 'whole', changes)
    resumed, _ = resume(folder / 'resumed', run, changes, 2)
    return tuple(runner.optim_wrapper.optimizer.state_dict() for runner in (run, resumed))


def test_gradients_summed_over_batches_and_processes_have_one_order(tmp_path):
    for whole, resumed in run_processes(_accumulated_on_two, 2, tmp_path):
        assert_equal(resumed['state'], whole['state'])
