"""Checkpoints are written beside training, verified, and only then replace older ones."""

import errno
import io
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import ValLoop
from torch import nn

from mtp.engine import agreement, checkpoint_writer
from mtp.engine import runner as runner_module
from mtp.engine.checkpoint_writer import CheckpointError, bad_values, to_host
from mtp.engine.checkpoints import candidates, newest, verify
from mtp.engine.finite import not_finite_buffers
from tests.engine.hooks.test_training import TOY, toy_runner

EACH = {'default_hooks.checkpoint.interval': 1}
VALIDATED = {
    **EACH,
    'val_cfg.type': ValLoop,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.save_best': 'mean',
    'default_hooks.checkpoint.rule': 'greater',
}


def validated(work_dir, **changes):
    test = Config.fromfile(TOY)
    return toy_runner(
        work_dir,
        val_dataloader=test.test_dataloader,
        val_evaluator=test.test_evaluator,
        **VALIDATED,
        **changes,
    )


def names(folder, pattern='iter_*.pth'):
    return sorted(path.name for path in folder.glob(pattern))


def test_all_that_is_left_is_verified_and_what_is_not_kept_is_gone(tmp_path):
    toy_runner(tmp_path, **EACH).train()
    assert names(tmp_path) == ['iter_5.pth', 'iter_6.pth']
    assert [verify(path).iteration for path in candidates(tmp_path)] == [5, 6]
    assert len(list(tmp_path.glob('*.sha256'))) == 2 and not list(tmp_path.glob('.*'))
    found, passed_over = newest(tmp_path)
    assert found.path.name == 'iter_6.pth' and not passed_over
    checksums = (tmp_path / 'iter_6.pth.sha256').read_text().splitlines()
    assert checksums[0].startswith('# ') and checksums[1].endswith('  iter_6.pth')


@pytest.mark.parametrize(
    ('number', 'mend'),
    [(errno.ENOSPC, 'free some space'), (errno.EROFS, 'make the file system writable')],
)
def test_a_disk_that_refuses_ends_the_next_step_with_one_error(tmp_path, monkeypatch, number, mend):
    class Refusing(io.FileIO):
        def write(self, data):
            if self.tell() > 2000 and 'iter_2' in str(self.name):
                raise OSError(number, os.strerror(number))
            return super().write(data)

    monkeypatch.setattr(checkpoint_writer, 'open', Refusing, raising=False)
    with pytest.raises(CheckpointError, match=f'iter_2.pth .*{os.strerror(number)}.*{mend}'):
        toy_runner(tmp_path, **EACH).train()
    assert names(tmp_path) == ['iter_1.pth'] and not list(tmp_path.glob('.*'))
    assert newest(tmp_path)[0].iteration == 1


class Pace(Hook):
    """Tells the test where training is."""

    def __init__(self) -> None:
        self.third = threading.Event()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            self.third.set()


def test_training_goes_on_while_the_copy_is_written(tmp_path, monkeypatch):
    toy_runner(tmp_path / 'alone', **{'default_hooks.checkpoint.interval': 2}).train()
    runner = toy_runner(tmp_path / 'slow', **{'default_hooks.checkpoint.interval': 2})
    pace = Pace()
    runner.register_hook(pace)
    write, waited = runner_module.write_file, []

    def slowly(*args):
        waited.append(pace.third.wait(20))
        write(*args)

    monkeypatch.setattr(runner_module, 'write_file', slowly)
    runner.train()
    assert waited == [True] * 3
    alone, slow = (
        torch.load(tmp_path / run / 'iter_4.pth', weights_only=False) for run in ('alone', 'slow')
    )
    for key in alone['state_dict']:
        assert torch.equal(alone['state_dict'][key], slow['state_dict'][key])
    assert torch.equal(
        alone['optimizer']['state'][0]['exp_avg'], slow['optimizer']['state'][0]['exp_avg']
    )


class Poison(Hook):
    """Makes a weight NaN after the third step."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 2:
            runner.model.head.weight.data[0, 0] = float('nan')


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path):
    runner = toy_runner(tmp_path, **EACH)
    runner.register_hook(Poison())
    with pytest.raises(CheckpointError, match=r'iter_3.pth are not finite, first state_dict.head'):
        runner.train()
    assert names(tmp_path) == ['iter_1.pth', 'iter_2.pth']


def test_what_a_checkpoint_names_for_removal_is_removed_in_the_own_folder_only(tmp_path):
    validated(tmp_path / 'run', **{'train_cfg.max_iters': 2}).train()
    (best,) = (tmp_path / 'run').glob('best_*.pth')
    victim, file = tmp_path / 'precious', tmp_path / 'iter_7.pth'
    victim.mkdir()
    file.touch()
    for number, path in enumerate((str(best), str(victim))):
        copy = tmp_path / f'copy{number}'
        shutil.copytree(tmp_path / 'run', copy)
        content = torch.load(copy / 'iter_2.pth', weights_only=False)
        content['message_hub']['runtime_info'].update(
            best_score=-1e9,
            best_ckpt=path,
            keep_ckpt_ids=['/../../iter_7', 1, 2],
            unscheduled_ckpt='../iter_7.pth',
        )
        torch.save(content, copy / 'iter_2.pth')
        validated(
            copy, resume=True, load_from=str(copy / 'iter_2.pth'), **{'train_cfg.max_iters': 4}
        ).train()
        assert names(copy) == ['iter_3.pth', 'iter_4.pth']
        assert len(list(copy.glob('best_*.pth'))) == (1 if path == str(best) else 2)
    assert best.is_file() and victim.is_dir() and file.is_file()


def test_a_best_checkpoint_goes_once_the_next_one_is_verified(tmp_path, monkeypatch):
    removed = []
    monkeypatch.setattr(
        'mtp.engine.hooks.checkpoint.remove',
        lambda path: removed.append(
            (path.name, sorted(p.name for p in tmp_path.glob('best*.pth')))
        ),
    )
    runner = validated(tmp_path)
    rising = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(
        runner.cfg.val_evaluator.type, 'compute_metrics', lambda *_: {'mean': next(rising)}
    )
    runner.train()
    best = [entry for entry in removed if entry[0].startswith('best')]
    assert best[0] == ('best_mean_iter_2.pth', ['best_mean_iter_2.pth', 'best_mean_iter_4.pth'])
    assert len(best) == 2


def test_checkpoints_by_the_clock_are_replaced_by_the_next_one(tmp_path, monkeypatch):
    class Count(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            time.sleep(0.05)

        def before_save_checkpoint(self, runner, checkpoint):
            saved.append(checkpoint['meta']['iter'])

    saved = []
    monkeypatch.setattr(agreement, 'POLL', 0.01)
    runner = toy_runner(
        tmp_path, **{'default_hooks.checkpoint.interval': 6, 'default_hooks.preemption.minutes': 0}
    )
    runner.register_hook(Count())
    runner.train()
    assert saved[-1] == 6 and len(saved) > 1 and names(tmp_path) == ['iter_6.pth']


def test_the_copy_keeps_what_is_shared_and_leaves_nothing_else_shared():
    weight = torch.randn(4, 4)
    copied = to_host({'a': weight, 'b': weight, 'c': [weight[0]], 'd': ('x', 1)})
    assert copied['a'] is copied['b'] and copied['d'] == ('x', 1)
    weight.zero_()
    assert copied['a'].any() and copied['c'][0].any()


def test_values_that_are_not_finite_are_named():
    huge = torch.full((9,), 3e38)  # whose sum is infinite
    checkpoint = {
        'state_dict': {'a': huge, 'b': torch.tensor([1.0, float('inf')]), 'n': torch.tensor(3)},
        'ema_state_dict': {'module.a': torch.tensor(float('nan'))},
        'optimizer': {'state': {0: {'exp_avg': torch.tensor([float('-inf')]), 'step': 2}}},
    }
    assert bad_values(checkpoint) == [
        'state_dict.b',
        'ema_state_dict.module.a',
        'optimizer.0.exp_avg',
    ]
    assert bad_values({'state_dict': {}}) == []


def test_buffers_that_were_not_finite_at_first_are_taken():
    model = nn.Linear(2, 1)
    model.register_buffer('mask', torch.tensor([0.0, -torch.inf]))
    model.register_buffer('unknown', torch.tensor([1.0, torch.nan]))
    model.register_buffer('cache', torch.tensor(torch.nan), persistent=False)
    model.register_buffer('variance', torch.ones(()))
    model.bias.data.fill_(torch.inf)  # parameters must be finite in any case
    began = not_finite_buffers(model)
    assert began == {'mask': False, 'unknown': True}
    average = {f'module.{name}': value for name, value in model.state_dict().items()}
    checkpoint = {'state_dict': model.state_dict(), 'ema_state_dict': average}
    assert bad_values(checkpoint, began) == ['state_dict.bias', 'ema_state_dict.module.bias']
    model.bias.data.zero_()
    assert bad_values(checkpoint, began) == []
    model.mask.copy_(model.mask.flip(0))  # made again for another size
    assert bad_values(checkpoint, began) == []
    model.mask[0] = torch.nan
    model.variance.fill_(torch.inf)
    assert bad_values(checkpoint, began)[:2] == ['state_dict.mask', 'state_dict.variance']


def test_a_checkpoint_of_shards_is_verified_file_by_file(tmp_path):
    from tests.engine.test_shards import checkpoint, saved

    checkpoint.start_shards(saved.__wrapped__(), tmp_path / 'iter_5.pth')()
    checkpoint.start_shards(saved.__wrapped__(), tmp_path / 'iter_5.pth')()  # in place of it
    assert verify(tmp_path / 'iter_5.pth').iteration == 5
    for path in sorted((tmp_path / 'iter_5.pth').iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f'{path.name} is damaged'):
            verify(Path(tmp_path / 'iter_5.pth'))
        path.write_bytes(content)
