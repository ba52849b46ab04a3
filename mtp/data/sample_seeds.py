"""Wrappers that make each training sample of any library a function of (seed, epoch, position).

mmengine seeds each worker once. The draws of a sample then depend on the samples that the worker
read before: on the number of workers, and on where a run was resumed.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset, Sampler

from mtp.data.multitask_dataset import seeded, stable_hash
from mtp.data.unreadable_samples import KEY, BadFile, candidates, read_candidate


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
    """Index of a sample that carries the seed of the sample's random draws.

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

    The seed is a function of (seed, epoch, position). The position is that in the order of all
    processes, of which mmengine's samplers give each process every n-th index: an image has the
    same seed on any number of processes. Tuples are passed on unchanged; those of
    :class:`mtp.data.MultiDatasetSampler` hold a seed already.

    Args:
        dataset: data set to sample from.
        sampler: sampler, or its config.
        seed: seed of the samples, and of the sampler unless its config has one; None for a random
            seed, the same on all processes.

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
        """Seed of the samples, and of the sampler unless its config has one."""
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
    """Batch sampler that can begin after some batches; otherwise it acts as the one it wraps.

    The skipped batches are formed, though their samples are not read, so that the state of the
    batch sampler is right (the buckets of mmdet's ``AspectRatioBatchSampler``).

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
    """Data set that seeds the draws of each sample, and replaces samples that cannot be read.

    Otherwise it acts as the data set that it wraps. The global generators of Python, NumPy and
    torch are seeded while a sample is made. All draws of its pipeline, the images that it mixes in,
    and the image that replaces it if the pipeline returns None, are then functions of the seed. The
    metainfo of the sample's ``data_samples`` holds the ``sample_seed``.

    A sample whose files cannot be read is replaced (:mod:`mtp.data.unreadable_samples`). The
    metainfo then holds ``replaced_samples``, a list of (file, reason).

    Args:
        dataset: data set of any library, or its config.
    """

    def __init__(self, dataset: Dataset | dict[str, Any]) -> None:
        self.__dict__['_dataset'] = (
            DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        )
        self.__dict__['_fatal'] = {}
        self.__dict__['_tell'] = None

    def tell(self, tell: Callable[[int, int], None]) -> None:
        """Have a function called before and after each reading; for a worker of a loader.

        Args:
            tell: function of the sample's seed and the number of the candidate that is read, -1
                and 0 when none is.
        """
        self.__dict__['_tell'] = tell

    def condemn(self, sample_seed: int, candidate: int, reason: str) -> None:
        """Have a candidate for a sample replaced without being read, since reading it is fatal."""
        self._fatal[sample_seed, candidate] = reason

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, seeded where the index is a :class:`SeededIndex` or has a seed.

        Raises:
            OSError, UnusableFileError: neither the sample nor any candidate in its place can be
                read, or the sample has no ``data_samples`` to tell that it was replaced.
        """
        if isinstance(index, SeededIndex):
            return self._read(int(index), index.sample_seed, self._read_seeded)
        if isinstance(index, tuple):
            number, sample_seed = index
            return self._read(number, sample_seed, lambda *candidate: self._dataset[candidate])
        return self._dataset[index]

    def _read_seeded(self, index: int, sample_seed: int) -> Any:
        with seeded(sample_seed):
            sample = self._dataset[index]
        if (labels := _labels(sample)) is not None:
            labels.set_metainfo(dict(sample_seed=sample_seed))
        return sample

    def _read(self, index: int, sample_seed: int, read: Callable[[int, int], Any]) -> Any:
        """Return the first candidate for a sample that can be read."""
        bad: list[BadFile] = []
        for number, candidate in enumerate(candidates(self._dataset, index, sample_seed)):
            try:
                if self._tell is not None:
                    self._tell(sample_seed, number)
                fatal = self._fatal.get((sample_seed, number))
                sample = read_candidate(self._dataset, candidate, sample_seed, read, fatal)
            except BadFile as error:
                bad.append(error)
                continue
            finally:
                if self._tell is not None:
                    self._tell(-1, 0)
            if bad:
                if (labels := _labels(sample)) is None:
                    break
                labels.set_metainfo({KEY: [(error.file, error.reason) for error in bad]})
            return sample
        raise bad[0].error

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        # torch would otherwise call the wrapped data set's own method, which ignores the seeds
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # copy and pickle ask before there is a data set
            raise AttributeError(name)
        return getattr(self.__dict__['_dataset'], name)

    def __setattr__(self, name: str, value: Any) -> None:
        # for example the pipeline, which hooks of the libraries replace
        setattr(self._dataset, name, value)


def _labels(sample: Any) -> BaseDataElement | None:
    labels = sample.get('data_samples') if isinstance(sample, dict) else None
    return labels if isinstance(labels, BaseDataElement) else None
