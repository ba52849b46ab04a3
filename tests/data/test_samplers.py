"""The order of the images is a function of the seed and the iteration."""

from collections import Counter
from itertools import islice

import pytest

from mtp.data import MultiDatasetSampler, MultiTaskDataset


class Numbers:
    """A data set of some length."""

    def __init__(self, name, size):
        self.metainfo = dict(name=name)
        self.size = size

    def __len__(self):
        return self.size


DATA = MultiTaskDataset([Numbers('a', 10), Numbers('b', 4), Numbers('c', 7)])


def batches(num, rank=0, world_size=1, skip=0, **kwargs):
    sampler = MultiDatasetSampler(DATA, **dict(dict(seed=3), **kwargs))
    sampler.rank, sampler.world_size = rank, world_size
    sampler.skip(skip)
    per_batch = sampler.images_per_batch
    drawn = list(islice(sampler, num * per_batch))
    return [drawn[i : i + per_batch] for i in range(0, len(drawn), per_batch)]


def test_numbers_of_each_dataset():
    for batch in batches(6, images_per_dataset=dict(a=3, b=1, c=2)):
        assert [0 if i < 10 else 1 if i < 14 else 2 for i, _ in batch] == [0, 0, 0, 1, 2, 2]


def test_every_image_once_an_epoch_and_reshuffled():
    drawn = [i for batch in batches(10, images_per_dataset=2) for i, _ in batch if i < 10]
    first, second = drawn[:10], drawn[10:]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_global_batch_does_not_depend_on_the_number_of_processes():
    one = batches(5, images_per_dataset=4)
    two = [batches(5, rank, 2, images_per_dataset=2) for rank in range(2)]
    for whole, *parts in zip(one, *two):
        assert Counter(whole) == Counter(parts[0] + parts[1])


@pytest.mark.parametrize('processes', [2, 3])
def test_batches_of_one_process_are_those_of_several(processes):
    accumulated = batches(4 * processes, images_per_dataset=dict(a=3, b=1, c=2))
    several = [
        batches(4, rank, processes, images_per_dataset=dict(a=3, b=1, c=2))
        for rank in range(processes)
    ]
    assert accumulated == [batch for update in zip(*several) for batch in update]


def test_samples_differ_between_epochs_and_seeds():
    seeds = [seed for batch in batches(20, images_per_dataset=2) for _, seed in batch]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0
    assert batches(3) == batches(3) != batches(3, seed=4)


@pytest.mark.parametrize('skip', [0, 1, 6, 25])
def test_skip_equals_drawing(skip):
    flat = [sample for batch in batches(12, images_per_dataset=2) for sample in batch]
    later = [s for batch in batches(4, skip=skip, images_per_dataset=2) for s in batch]
    assert later == flat[skip : skip + 24]


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="each of .*'c'"):
        MultiDatasetSampler(DATA, dict(a=1, b=1))
    with pytest.raises(ValueError, match='at least 1'):
        MultiDatasetSampler(DATA, 0)
