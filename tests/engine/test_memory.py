"""A first step that does not fit: one error with what it takes and what would fit."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import BatchSampler

from mtp.engine import memory
from tests.engine.hooks.test_training import toy_runner

GIB = 2**30


class Card:
    """A GPU of 10 GiB, of which a step takes 2 GiB and 1 GiB for each image."""

    def __init__(self, monkeypatch, model):
        self.peak, self.limit, self.sizes, self.forward = 0, 10 * GIB, [], model.forward
        monkeypatch.setattr(model, 'forward', self)
        for name, value in dict(
            reset_peak_memory_stats=lambda: None,
            max_memory_allocated=lambda: self.peak,
            mem_get_info=lambda: (self.limit, self.limit),
            memory_reserved=lambda: 0,
        ).items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(
            torch.cuda.memory, '_dump_snapshot', lambda path: Path(path).write_text('snapshot')
        )

    def __call__(self, inputs, mode):
        self.sizes.append(len(inputs))
        self.peak = (2 + len(inputs)) * GIB
        if self.peak > self.limit:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.\nand more')
        return self.forward(inputs, mode)


@pytest.fixture
def runner(tmp_path):
    return toy_runner(tmp_path, **{'train_dataloader.batch_size': 12})


def test_smaller_batches_tell_what_fits(runner, monkeypatch, tmp_path):
    card = Card(monkeypatch, runner.model)
    with pytest.raises(torch.cuda.OutOfMemoryError) as error:
        runner.train()
    text = str(error.value)
    assert card.sizes == [12, 2, 2, 3]
    assert '10.0 GiB, with 12 images at once' in text and 'the batch take 2.00 GiB' in text
    assert 'an image takes 1.00 GiB). 7 images should fit: --images-per-gpu 7 ' in text
    assert 'with_cp=True' in text and 'ShardedModel' in text
    assert text.endswith('torch says: CUDA out of memory.')
    assert (tmp_path / 'memory_0.pickle').read_text() == 'snapshot'


def test_one_of_several_processes_counts(runner, monkeypatch):
    card = Card(monkeypatch, runner.model)
    monkeypatch.setattr(memory, 'get_world_size', lambda: 2)
    with pytest.raises(torch.cuda.OutOfMemoryError, match='an image takes at least .* 6 images'):
        runner.train()
    assert card.sizes == [12]


def test_where_the_smallest_batch_does_not_fit_other_settings_are_named(runner, monkeypatch):
    Card(monkeypatch, runner.model).limit = 2 * GIB
    with pytest.raises(torch.cuda.OutOfMemoryError, match='smallest batch, of 1 image, may not'):
        runner.train()


def test_a_number_that_did_not_fit_is_not_advised(runner, monkeypatch):
    card = Card(monkeypatch, runner.model)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: card.peak // 4)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=' 11 images should fit'):
        runner.train()


def test_a_batch_sampler_gives_the_images_at_once(tmp_path, monkeypatch):
    runner = toy_runner(
        tmp_path,
        **{
            'train_dataloader.batch_size': 12,
            'train_dataloader.batch_sampler': dict(type=BatchSampler, drop_last=False),
            'train_cfg.accumulation': 2,
        },
    )
    Card(monkeypatch, runner.model)
    with pytest.raises(torch.cuda.OutOfMemoryError, match='with 12 images at once.* 7 images'):
        runner.train()


def test_what_fails_on_the_way_does_not_hide_that_memory_ran_out(runner, monkeypatch):
    Card(monkeypatch, runner.model)

    def broken(*_):
        raise ValueError('more than one pixel')

    monkeypatch.setattr(memory, '_measure', broken)
    with pytest.raises(
        torch.cuda.OutOfMemoryError,
        match='not known: .*more than one pixel.* torch says: CUDA out of memory',
    ):
        runner.train()


def test_an_allocator_that_records_nothing_trains_all_the_same(monkeypatch):
    def broken(**_):
        raise RuntimeError('cudaMallocAsync does not yet support recordHistory')

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda.memory, '_record_memory_history', broken)
    with memory.allocations_recorded():
        pass


def test_later_steps_keep_their_error(runner, monkeypatch):
    card = Card(monkeypatch, runner.model)
    card.limit = 14 * GIB

    def broken(path):
        raise RuntimeError('no space')

    monkeypatch.setattr(torch.cuda.memory, '_dump_snapshot', broken)
    runner.register_hook(_Shrink(card))
    with pytest.raises(torch.cuda.OutOfMemoryError, match='^CUDA out of memory.\nand more$'):
        runner.train()


class _Shrink(Hook):
    """Takes memory away after the first step."""

    def __init__(self, card):
        self.card = card

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.card.limit = GIB
