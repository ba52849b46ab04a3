"""A sample is a function of (seed, epoch, position), whatever loads it."""

import pickle
import random
from collections import Counter
from itertools import islice

import mmengine.dataset
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.runner import Runner

from mtp.data import sample_seeds
from mtp.data.sample_seeds import SeededDataset, SeededIndex, SeededSampler, seed_samples
from tests.tools.toy import NoisyDataset


def draw(kind=DefaultSampler, rank=0, processes=1, seed=3, **kwargs) -> SeededSampler:
    with pytest.MonkeyPatch.context() as patch:
        for module in (sample_seeds, mmengine.dataset.sampler):
            patch.setattr(module, 'get_dist_info', lambda: (rank, processes))
        return SeededSampler(range(14), dict(type=kind, **kwargs), seed)


def first(sampler, number=None) -> list[tuple[int, int]]:
    return [(int(index), index.sample_seed) for index in islice(sampler, number)]


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('processes', [2, 7])
def test_files_and_seeds_do_not_depend_on_the_number_of_processes(kind, processes):
    one = first(draw(kind), 28 if kind is InfiniteSampler else None)
    parts = [first(draw(kind, r, processes), len(one) // processes) for r in range(processes)]
    assert [sample for place in zip(*parts) for sample in place] == one
    assert len({seed for _, seed in one}) == len(one)


def test_epochs_and_seeds_differ_and_repeat():
    sampler = draw()
    zeroth = first(sampler)
    assert first(sampler) == zeroth == first(draw())
    sampler.set_epoch(1)
    runs = [zeroth, first(sampler), first(draw(seed=8))]
    assert len({seed for run in runs for _, seed in run}) == 3 * 14
    assert len({tuple(index for index, _ in run) for run in runs}) == 3


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
def test_skip_equals_drawing_once(kind):
    expected, sampler = first(draw(kind), 14), draw(kind)
    sampler.skip(5)
    assert first(sampler, 9) == expected[5:]
    if kind is DefaultSampler:
        assert first(sampler) == expected


def test_seed_of_a_checkpoint_is_taken_unless_the_sampler_has_its_own():
    taken = draw(seed=9)
    own = SeededSampler(range(14), dict(type=DefaultSampler, seed=5), seed=9)
    taken.seed = own.seed = 3
    assert first(taken) == first(draw())
    assert [index for index, _ in first(own)] == list(DefaultSampler(range(14), seed=5))


def loader(num_workers=0, **changes):
    cfg = dict(
        batch_size=2,
        num_workers=num_workers,
        dataset=dict(type=NoisyDataset),
        sampler=dict(type=DefaultSampler, shuffle=True),
        **changes,
    )
    return Runner.build_dataloader(seed_samples(cfg), seed=0)


def batches(loader) -> list[list[list[float]]]:
    return [torch.stack(batch['inputs']).tolist() for batch in loader]


def test_workers_change_nothing_and_the_main_process_keeps_its_generators():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist()
    expected = batches(loader())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    np.random.seed(2)
    assert batches(loader(num_workers=2, persistent_workers=True)) == expected
    other = loader()
    other.sampler.set_epoch(1)
    assert not {tuple(x) for b in batches(other) for x in b} & {
        tuple(x) for b in expected for x in b
    }


def test_buckets_of_images_of_like_shape_are_those_of_the_whole_epoch():
    whole = loader(batch_sampler=dict(type=AspectRatioBatchSampler))
    seeds = [first(batch) for batch in whole.batch_sampler]
    pixels = batches(whole)
    assert seeds != [first(batch) for batch in loader().batch_sampler]
    for begin in range(len(pixels) + 1):
        whole.batch_sampler.skip(begin)
        NoisyDataset.read.clear()
        assert batches(whole) == pixels[begin:]
        assert NoisyDataset.read == [index for batch in seeds[begin:] for index, _ in batch]
        assert [first(batch) for batch in whole.batch_sampler] == seeds


def test_an_index_survives_the_way_to_a_worker():
    index = pickle.loads(pickle.dumps(SeededIndex(4, 7)))
    assert (index, index.sample_seed) == (4, 7) and isinstance(index, int)


@TRANSFORMS.register_module()
class Mixed(BaseTransform):
    """Adds other images, as Mosaic does; gives up every second time."""

    def get_indexes(self, dataset):
        return [random.randint(0, len(dataset) - 1) for _ in range(3)]

    def transform(self, results):
        if np.random.rand() < 0.5:
            return None
        parts = [results, *results.get('mix_results', ())]
        return dict(results, value=sum(part['value'] for part in parts))


@TRANSFORMS.register_module()
class Drawn(BaseTransform):
    """Draws a value, and at times nothing, whereupon another image takes the place."""

    def transform(self, results):
        if np.random.rand() < 0.5:
            return None
        return dict(results, value=np.random.rand() + float(torch.rand(())))


class Values(BaseDataset):
    def load_data_list(self):
        return [{} for _ in range(6)]


PLAIN = dict(type=Values, pipeline=[dict(type=Drawn)], metainfo=dict(classes=('a',)))
WRAPPED = {
    'plain': PLAIN,
    'concatenated': dict(type='ConcatDataset', datasets=[PLAIN, PLAIN]),
    'repeated': dict(type='RepeatDataset', dataset=PLAIN, times=2),
    'mixed': dict(type=MultiImageMixDataset, dataset=PLAIN, pipeline=[dict(type='mmdet.Mixed')]),
}


@pytest.mark.parametrize('kind', WRAPPED)
def test_what_takes_the_place_of_a_sample_or_is_mixed_in_follows_the_seed(kind):
    dataset = SeededDataset(WRAPPED[kind])
    again = pickle.loads(pickle.dumps(dataset))  # as a spawned worker gets it
    assert len(dataset) == len(again) and again.metainfo['classes'] == ('a',)
    drawn = Counter()
    for seed in range(8):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        values = [data[SeededIndex(1, seed)]['value'] for data in (dataset, again)]
        assert values[0] == values[1] == dataset.__getitems__([SeededIndex(1, seed)])[0]['value']
        drawn[values[0]] += 1
    assert len(drawn) == 8


def test_hooks_exchange_the_pipeline_and_samples_tell_their_seed():
    dataset = SeededDataset(PLAIN)
    dataset.pipeline = lambda results: dict(data_samples=DetDataSample())
    assert dataset[SeededIndex(0, 5)]['data_samples'].sample_seed == 5
    assert 'sample_seed' not in dataset[0]['data_samples']
