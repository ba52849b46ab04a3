"""Training loaders of any library whose samples are functions of (seed, epoch, position).

mmengine seeds the workers, whose generators run on from sample to sample: what a sample draws then
depends on the number of workers, and on where the run was started.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset, Sampler

from mtp.data.multitask_dataset import seeded, stable_hash


def seed_samples(loader: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a training loader with its data set and samplers wrapped.

    Args:
        loader: config of a loader, as mmengine's ``Runner.build_dataloader`` takes it.

    Returns:
        dict: config of a loader with a :class:`SeededDataset` and a :class:`SeededSampler`, and
        with a :class:`SkippingBatchSampler` where ``loader`` has a batch sampler of its own.
    """
    wrapped = {
        **loader,
        'dataset': dict(type=SeededDataset, dataset=loader['dataset']),
        'sampler': dict(type=SeededSampler, sampler=loader['sampler']),
    }
    if loader.get('batch_sampler') is not None:
        wrapped['batch_sampler'] = dict(
            type=SkippingBatchSampler, batch_sampler=loader['batch_sampler']
        )
    return wrapped


class SeededIndex(int):
    """Index of a sample, with the seed of what the sample draws.

    Args:
        index: index in the data set.
        sample_seed: seed, at least 0.
    """

    sample_seed: int

    def __new__(cls, index: int, sample_seed: int) -> 'SeededIndex':
        self = super().__new__(cls, index)
        self.sample_seed = sample_seed
        return self

    def __reduce__(self) -> tuple[type['SeededIndex'], tuple[int, int]]:
        return SeededIndex, (int(self), self.sample_seed)


class SeededSampler(Sampler):
    """Sampler whose indices carry the seeds of their samples.

    The seed is a function of (seed, epoch, position), the position being that in the order of all
    processes together, which mmengine's samplers deal out in turn: an image of an epoch has the
    same seed for any number of processes. What is no index, such as the pairs of
    :class:`mtp.data.MultiDatasetSampler`, which have seeds already, passes unchanged.

    Args:
        dataset: data set to sample from.
        sampler: sampler, or its config.
        seed: seed of the samples and, where its config has none, of the sampler; None for a random
            one, the same on all processes.

    Attributes:
        epoch: epoch that the next iteration belongs to.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler | dict[str, Any], seed: int | None = None
    ) -> None:
        self.epoch = 0
        self._seed = sync_random_seed() if seed is None else seed
        self._given = not isinstance(sampler, dict) or 'seed' in sampler
        self._sampler: Any = (
            DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=self._seed))
            if isinstance(sampler, dict)
            else sampler
        )
        self._rank, self._world_size = get_dist_info()
        self._start = 0

    @property
    def is_endless(self) -> bool:
        """Whether the order never ends, as that of mmengine's ``InfiniteSampler``."""
        return not hasattr(self._sampler, 'epoch')

    @property
    def seed(self) -> int:
        """Seed of the samples and, where its config has none, of the sampler."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        if not self._given:
            self._sampler.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration belongs to."""
        self.epoch = epoch
        if hasattr(self._sampler, 'set_epoch'):
            self._sampler.set_epoch(epoch)

    def skip(self, num_samples: int) -> None:
        """Begin the next iteration, and no later one, after some samples of this process."""
        self._start = num_samples

    def __iter__(self) -> Iterator[Any]:
        start, self._start = self._start, 0
        indices = self._sampler
        if start and hasattr(indices, 'skip'):
            indices.skip(start)
        elif start:
            indices = islice(indices, start, None)
        for place, index in enumerate(indices, start):
            if isinstance(index, tuple):
                yield index
                continue
            position = place * self._world_size + self._rank
            yield SeededIndex(index, stable_hash(self._seed, self.epoch, position, 'sample'))

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['_sampler'], name)


class SkippingBatchSampler(Sampler):
    """Batch sampler that can begin after some batches; otherwise the batch sampler itself.

    The batches before are formed, so that what it gathers (the buckets of mmdet's
    ``AspectRatioBatchSampler``) is as after them, but their samples are not read.

    Args:
        sampler: sampler that gives the indices.
        batch_size: number of samples in a batch.
        batch_sampler: batch sampler, or its config.
    """

    def __init__(
        self, sampler: Sampler, batch_size: int, batch_sampler: Sampler | dict[str, Any]
    ) -> None:
        self._batch_sampler: Any = (
            DATA_SAMPLERS.build(
                batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
            if isinstance(batch_sampler, dict)
            else batch_sampler
        )
        self._start = 0

    def skip(self, num_batches: int) -> None:
        """Begin the next iteration, and no later one, after some batches of this process."""
        self._start = num_batches

    def __iter__(self) -> Iterator[Sequence[Any]]:
        start, self._start = self._start, 0
        yield from islice(self._batch_sampler, start, None)

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['_batch_sampler'], name)


class SeededDataset:
    """Data set that seeds what a sample draws; otherwise the data set itself.

    The global generators of Python, NumPy and torch are seeded while a sample is made: whatever
    its pipeline draws, the other images that it mixes in, and the one that takes its place if the
    pipeline gives it up, are functions of the seed. The seed stands in the metainfo of the
    sample's ``data_samples``.

    Args:
        dataset: data set of any library, or its config.
    """

    def __init__(self, dataset: Dataset | dict[str, Any]) -> None:
        self.__dict__['_dataset'] = (
            DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        )

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, seeded where the index is a :class:`SeededIndex`."""
        if not isinstance(index, SeededIndex):
            return self._dataset[index]
        with seeded(index.sample_seed):
            sample = self._dataset[int(index)]
        labels = sample.get('data_samples') if isinstance(sample, dict) else None
        if isinstance(labels, BaseDataElement):
            labels.set_metainfo(dict(sample_seed=index.sample_seed))
        return sample

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        # torch would take that of the data set itself, which knows no seeds
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # of copy and pickle, while there is no data set yet
            raise AttributeError(name)
        return getattr(self.__dict__['_dataset'], name)

    def __setattr__(self, name: str, value: Any) -> None:
        # such as the pipeline, which hooks of the libraries exchange
        setattr(self._dataset, name, value)
