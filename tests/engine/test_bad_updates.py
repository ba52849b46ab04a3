"""An update whose numbers go wrong leaves a run as if it had been left out, and is reported."""

import argparse
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.structures import BaseDataElement
from torch import nn

from mtp.cli import launch, replay
from mtp.engine import BadUpdatesError, FastEMA, MixedPrecisionOptimWrapper
from mtp.engine.checkpoints import verify
from mtp.engine.finite import not_finite
from mtp.engine.loss_scale import FIRST, GROWTH_INTERVAL, SMALLEST
from tests.distributed import run_processes
from tests.engine.hooks.test_training import toy_runner
from tests.tools.toy import ToyDataset, ToyModel

BAD = 2  # runner.iter of the update that goes wrong
NAN, INF = float('nan'), float('inf')


class NormedToy(ToyModel):
    """The toy model with batch norm."""

    def __init__(self, backbone: dict, width: int = 8) -> None:
        super().__init__(backbone, width)
        self.backbone.append(nn.BatchNorm1d(width))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(inputs, mode)


class MaskedToy(NormedToy):
    """The toy model with a mask of -inf, made again for each batch."""

    def __init__(self, backbone: dict, width: int = 8) -> None:
        super().__init__(backbone, width)
        self.register_buffer('mask', torch.tensor([0.0, -INF]))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            self.mask.copy_(self.mask.flip(0))
        return super().forward(inputs, mode=mode)


class NamedVectors(ToyDataset):
    """Toy data that tell their file."""

    def __getitem__(self, index: int) -> dict:
        meta = dict(img_path=f'{index}.png')
        return dict(super().__getitem__(index), data_samples=BaseDataElement(metainfo=meta))


class Fault(Hook):
    """Makes numbers of an update go wrong, or leaves the update out.

    Args:
        kind: where: ``'pixel'``, ``'activation'``, ``'loss'``, ``'gradient'``, ``'variance'`` (an
            activation whose square is infinite), or ``'left out'``.
        value: what the number becomes.
        batch: which of the update's batches.
        rank: on which process.
        updates: ``runner.iter`` of the updates.
    """

    def __init__(self, kind, value=NAN, batch=0, rank=0, updates=(BAD,)):
        self.kind, self.value, self.batch, self.rank = kind, value, batch, rank
        self.updates = updates
        self.undo = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter not in self.updates:
            return
        if self.kind == 'left out':
            self.leave_out(runner)
        elif self.kind == 'loss':
            parse = runner.model.parse_losses
            runner.model.parse_losses = lambda losses: (parse(losses)[0] * self.value, {})
            self.undo.append(lambda: setattr(runner.model, 'parse_losses', parse))
        elif self.kind == 'pixel' and runner.rank == self.rank:
            batches = data_batch if isinstance(data_batch, list) else [data_batch]
            batches[self.batch]['inputs'][0][1] = self.value
        else:
            self.before_train_batch(runner, 0)

    def before_train_batch(self, runner, batch_idx):
        if runner.iter in self.updates and (batch_idx, runner.rank) == (self.batch, self.rank):
            if self.kind in ('activation', 'gradient', 'variance'):
                linear = getattr(runner.model, 'module', runner.model).backbone[0]
                self.undo.append(
                    linear.register_forward_hook(getattr(self, self.kind), prepend=True).remove
                )

    def leave_out(self, runner):
        """Draw, count and schedule as ever, but compute nothing."""
        kept = runner.model.train_step
        runner.model.train_step = lambda data, optim_wrapper: {'loss': torch.zeros(())}
        self.undo.append(lambda: setattr(runner.model, 'train_step', kept))
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                average, update = hook.ema_model, hook.ema_model.update_parameters
                average.update_parameters = lambda model: None
                self.undo.append(partial(setattr, average, 'update_parameters', update))

    def activation(self, module, inputs, output):
        return output.index_fill(0, torch.tensor([0]), self.value)

    def variance(self, module, inputs, output):
        return output.index_fill(0, torch.tensor([0]), 1e30)

    def gradient(self, module, inputs, output):
        output.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), self.value))

    # after EMAHook
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for undo in self.undo:
            undo()
        self.undo.clear()


def train(work_dir, fault, **settings):
    """Train six updates of which the third goes wrong; return the runner."""
    runner = toy_runner(
        work_dir,
        **{
            # by name, so that the config that a run writes can be read again
            'model.type': f'{__name__}.NormedToy',
            'train_dataloader.dataset.type': f'{__name__}.NamedVectors',
            'train_dataloader.batch_size': 3,
            'custom_hooks': [dict(type=EMAHook, ema_type=FastEMA, momentum=0.3)],
            **settings,
        },
    )
    if fault is not None:
        runner.register_hook(fault)
    runner.train()
    return runner


def state(runner):
    """Copy what an update changes, by name."""
    found = {f'model.{key}': value for key, value in runner.model.state_dict().items()}
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            found |= {f'ema.{key}': value for key, value in hook.ema_model.state_dict().items()}
    optimizer = runner.optim_wrapper.state_dict()
    for index, values in optimizer['state'].items():
        found |= {f'optimizer.{index}.{key}': value for key, value in values.items()}
    found['lr'] = torch.tensor([group['lr'] for group in optimizer['param_groups']])
    found['counted'] = torch.tensor([runner.iter, runner.param_schedulers[0].last_step])
    local = {key: getattr(value, '_local_tensor', value) for key, value in found.items()}
    return {key: value.clone() for key, value in local.items() if isinstance(value, torch.Tensor)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    different = [key for key in found if not torch.equal(found[key], expected[key])]
    assert not different
    assert all(value.isfinite().all() for key, value in found.items() if 'mask' not in key)


SGD = dict(type=torch.optim.SGD, lr=0.1, momentum=0.9, _delete_=True)
AVERAGE = 'custom_hooks'
SETTINGS = {
    'fused': {},
    'clipped': {'optim_wrapper.clip_grad': dict(max_norm=0.1)},
    'clipped by value': {'optim_wrapper.clip_grad': dict(type='value', clip_value=0.1)},
    'optimiser that cannot skip': {'optim_wrapper.optimizer': SGD},
    'bfloat16': {'optim_wrapper.amp': 'on'},
    'batches': {'train_cfg.accumulation': 3},
    "mmengine's average": {
        AVERAGE: [dict(type=EMAHook, ema_type=ExponentialMovingAverage, momentum=0.3)]
    },
    'average of buffers': {
        AVERAGE: [
            dict(type=EMAHook, ema_type=FastEMA, momentum=0.3, update_buffers=True, interval=2)
        ]
    },
}


@pytest.fixture(scope='module')
def left_out(tmp_path_factory):
    """State of a run that left the update out, by settings."""
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp('left_out')
            known[name] = state(train(folder, Fault('left out'), **SETTINGS[name]))
        return known[name]

    return get


@pytest.mark.parametrize(
    ('settings', 'fault'),
    [
        ('fused', dict(kind='pixel')),
        ('fused', dict(kind='activation', value=INF)),
        ('fused', dict(kind='gradient')),
        ('fused', dict(kind='loss')),
        ('fused', dict(kind='variance')),
        ('clipped', dict(kind='gradient')),
        ('clipped by value', dict(kind='gradient', value=INF)),
        ('optimiser that cannot skip', dict(kind='activation')),
        ('bfloat16', dict(kind='pixel')),
        ('batches', dict(kind='pixel', batch=1)),
        ('batches', dict(kind='gradient', batch=2)),
        ("mmengine's average", dict(kind='pixel')),
        ('average of buffers', dict(kind='pixel')),
    ],
)
def test_a_bad_update_is_as_if_it_had_been_left_out(settings, fault, left_out, tmp_path):
    runner = train(tmp_path, Fault(**fault), **SETTINGS[settings])
    assert_equal(state(runner), left_out(settings))
    assert runner.message_hub.get_scalar('train/bad_updates').current() == 1


def test_the_first_update_may_be_the_bad_one(tmp_path):
    bad, control = (
        state(train(tmp_path / kind, Fault(kind, updates=(0,)))) for kind in ('pixel', 'left out')
    )
    assert_equal(bad, control)


WRAPPERS = {'copies': 'mtp.engine.ReplicatedModel', 'shards': 'mtp.engine.ShardedModel'}


def _on_two(rank, folder):
    results = {}
    for name, wrapper in WRAPPERS.items():
        for kind in ('activation', 'left out'):
            settings = {'launcher': 'pytorch', 'model_wrapper_cfg': dict(type=wrapper)}
            if name == 'shards':
                settings |= {'custom_hooks': [], 'model.type': f'{__name__}.MaskedToy'}
            fault = Fault(kind, rank=1, batch=1)
            runner = train(
                folder / f'{name} {kind}', fault, **{'train_cfg.accumulation': 2, **settings}
            )
            results[name, kind] = state(runner)
    return results


def test_one_of_two_processes_with_a_bad_batch(tmp_path):
    for results in run_processes(_on_two, 2, tmp_path):
        for name in WRAPPERS:
            assert_equal(results[name, 'activation'], results[name, 'left out'])
    assert verify(tmp_path / 'shards activation' / 'iter_6.pth').iteration == 6
    path = tmp_path / 'copies activation' / 'bad_updates' / f'iter_{BAD + 1}.json'
    told = json.loads(path.read_text())
    assert told['bad_loss_on_ranks'] == [1]
    assert [len(of_rank['files']) for of_rank in told['ranks']] == [2, 2]


def test_a_mask_of_infinity_is_no_fault(left_out, tmp_path):
    settings = {**SETTINGS['average of buffers'], 'model.type': f'{__name__}.MaskedToy'}
    whole = train(tmp_path / 'whole', Fault('variance'), **settings)
    assert whole.message_hub.get_scalar('train/bad_updates').current() == 1
    found = state(whole)
    masks = {key: found.pop(key) for key in ('model.mask', 'ema.module.mask')}
    assert_equal(found, left_out('average of buffers'))
    assert all(mask.tolist() == [-INF, 0] for mask in masks.values())
    middle = f'{tmp_path}/whole/iter_3.pth'
    resumed = train(tmp_path / 'resumed', None, **settings, resume=True, load_from=middle)
    assert_equal(state(resumed), found | masks)


def test_it_is_counted_and_written_down(tmp_path):
    checkpoints = dict(interval=1, max_keep_ckpts=-1)
    runner = train(tmp_path, Fault('pixel'), **{'default_hooks.checkpoint': checkpoints})
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'bad_updates: 1' in log and log.count('1 update skipped') == 1
    rows = (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    assert [json.loads(row).get('bad_updates') for row in rows] == [None, 1, 1]
    told = json.loads((tmp_path / 'bad_updates' / 'iter_3.json').read_text())
    assert (told['iteration'], told['config']) == (3, 'toy_config.py')
    assert told['checkpoint'] in ('iter_1.pth', 'iter_2.pth')  # that may still be being written
    (of_rank,) = told['ranks']
    ((files,), (seeds,)) = of_rank['files'], of_rank['seeds']
    assert files[0] in log and files[0].endswith('.png')
    assert len(files) == 3 and len(set(seeds)) == 3
    saved = [torch.load(path, weights_only=False) for path in tmp_path.glob('iter_*.pth')]
    assert len(saved) == 6 and not any(map(not_finite, saved))


def test_a_run_of_bad_updates_ends_with_one_error(tmp_path):
    settings = {'default_hooks.bad_updates.max_in_a_row': 3}  # more than a log interval
    with pytest.raises(
        BadUpdatesError, match='3 updates in a row, iterations 2 to 4, .*iter_2.json'
    ):
        train(tmp_path, Fault('gradient', updates=(1, 2, 3)), **settings)
    # with a good one between them they are not in a row
    train(tmp_path / 'other', Fault('gradient', updates=(0, 1, 3, 4)), **settings)


def test_float16_reduces_its_scale_before_an_update_counts_as_bad():
    weight = nn.Parameter(torch.tensor([1.0]))
    wrapper = MixedPrecisionOptimWrapper(
        torch.optim.SGD([weight], lr=0.125, fused=True), amp='on', dtype='float16'
    )

    def update(loss_factor=1.0, gradient_factor=1.0):
        before = weight.item()
        handle = weight.register_hook(lambda grad: grad * gradient_factor)
        wrapper.update_params(weight.sum() * loss_factor)
        handle.remove()
        skipped, _, reduced = wrapper.outcome.tolist()
        assert weight.item() == before - 0.125 * (not skipped)
        return bool(skipped), bool(reduced)

    assert update() == (False, False)
    assert update(loss_factor=NAN) == (True, False), 'the scale is not the cause'
    assert wrapper.loss_scale.value == FIRST
    for _ in range(16):  # FIRST is 2 ** 16
        assert update(gradient_factor=INF) == (True, True)
    assert update(gradient_factor=INF) == (True, False), 'nor is the smallest'
    again = MixedPrecisionOptimWrapper(wrapper.optimizer, amp='on', dtype='float16')
    again.load_state_dict(wrapper.state_dict())
    assert (again.loss_scale.value, again.loss_scale.steps) == (SMALLEST, 0)
    wrapper.loss_scale.steps.fill_(GROWTH_INTERVAL - 1)
    assert update() == (False, False) and wrapper.loss_scale.value == 2 * SMALLEST


def test_reductions_of_the_scale_are_logged_by_themselves(tmp_path):
    settings = {'optim_wrapper.amp': 'on', 'optim_wrapper.dtype': 'float16'}
    runner = train(tmp_path, None, **settings)
    assert runner.message_hub.get_scalar('train/loss_scale_reductions').current() > 0
    assert 'train/bad_updates' not in runner.message_hub.log_scalars
    assert not (tmp_path / 'bad_updates').exists()


def test_names_of_what_is_not_finite():
    good, bad = torch.ones(2), torch.tensor([1.0, INF])
    checkpoint = {
        'state_dict': {'a': good, 'b': bad, 'count': torch.tensor(3)},
        'optimizer': {'state': {0: {'exp_avg': bad * 0}}, 'param_groups': [{'lr': NAN}]},
        'message_hub': {'loss': NAN},
    }
    expected = {'state_dict.b', 'optimizer.state.0.exp_avg', 'optimizer.param_groups.0.lr'}
    assert set(not_finite(checkpoint)) == expected


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('pixel', 'whose output is not finite is data_preprocessor .* are not finite either'),
        ('activation', r'not finite is backbone\.0 \(Linear\), in batch 0; its inputs are finite'),
        ('gradient', r'all outputs are finite; the first gradient .* backbone\.[01], in batch 0'),
    ],
)
def test_replay_names_the_module_and_leaves_no_trace(kind, expected, tmp_path, monkeypatch):
    work_dir = tmp_path / 'run'
    fault = dict(type=f'{__name__}.Fault', kind=kind)
    checkpoints = dict(interval=2, max_keep_ckpts=-1)
    train(work_dir, None, **{AVERAGE: [fault], 'default_hooks.checkpoint': checkpoints})
    before = set(work_dir.rglob('*'))
    monkeypatch.setenv('MTP_STRICT', '0')
    args = argparse.Namespace(replay=work_dir / 'bad_updates' / 'iter_3.json')
    update = replay.begin(args)
    assert args.resume == str(work_dir / 'iter_2.pth') and os.environ['MTP_STRICT'] == '1'
    cfg = Config.fromfile(args.config)
    cfg.update(resume=True, load_from=args.resume, work_dir=str(args.work_dir))
    cfg.experiment_name = f'replay {kind}'
    replay.without_traces(cfg, update)
    with pytest.raises(replay.ReplayEndedError, match=expected):
        launch.build_runner(cfg).train()
    assert set(work_dir.rglob('*')) - before == {work_dir / 'bad_updates' / 'replay_3.json'}
