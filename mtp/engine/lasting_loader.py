"""A training loader that outlasts its workers: it goes on at the batch where one dies."""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mtp.compat import leave_dead_workers_to_the_loader
from mtp.data.sample_seeds import SeededDataset
from mtp.engine.loader_workers import WorkerReports

MOST_DEATHS = 20  # without a batch in between: it is not the images
_SAME = (  # as in the loader that reads a whole epoch
    'dataset',
    'num_workers',
    'collate_fn',
    'pin_memory',
    'timeout',
    'worker_init_fn',
    'multiprocessing_context',
    'generator',
    'prefetch_factor',
    'persistent_workers',
    'pin_memory_device',
)


class LastingLoader:
    """Proxy of a loader with workers that starts them again, at the same batch, when one dies.

    The batches are those of a loader whose workers live. A sample whose worker dies twice while it
    reads that sample is replaced (:mod:`mtp.data.unreadable_samples`).

    Args:
        loader: loader that :class:`mtp.engine.Runner` has built for training.

    Raises:
        RuntimeError: workers have died ``MOST_DEATHS`` times one after the other.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self._indices = _Indices(loader.batch_sampler or ())  # mmengine never leaves it out
        self._reader: DataLoader = DataLoader(
            batch_sampler=self._indices, **{name: getattr(loader, name) for name in _SAME}
        )
        self._deaths: Counter[tuple[int, int]] = Counter()  # by seed and candidate of the sample

    def __iter__(self) -> Iterator[Any]:
        self._indices.begin()
        batches = self._begin()
        deaths = 0
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (EOFError, OSError, RuntimeError) as error:
                dead = _dead_workers(batches)
                if not dead:
                    raise
                deaths += 1
                said = self._report(batches, dead)
                if deaths >= MOST_DEATHS:
                    raise RuntimeError(
                        f'{said}. Workers have ended {deaths} times without a batch in between'
                    ) from error
                print_log(f'{said}. Its loader begins again', 'current', logging.WARNING)
                batches._shutdown_workers()
                self._iterator = None
                with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its workers
                    batches = self._begin()
                continue
            deaths = 0
            self._indices.unread.popleft()
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    @property
    def _iterator(self) -> Any:
        """Iterator of workers that outlive an epoch, which hooks of mmdet replace by None."""
        return self._reader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self._reader._iterator = iterator

    def _begin(self) -> Any:
        batches = iter(self._reader)
        leave_dead_workers_to_the_loader(batches)
        return batches

    def _report(self, batches: _MultiProcessingDataLoaderIter, dead: list[int]) -> str:
        """Note which samples dead workers were reading; return what is to be said of them."""
        reports, dataset, said = self.loader.worker_init_fn, self.loader.dataset, []
        for number in dead:
            process = batches._workers[number]
            text = f'worker {process.pid} of the training data has ended'
            text += f' (exit code {process.exitcode})'
            if isinstance(reports, WorkerReports):
                text += f', the file that it opened last: {reports.file_of(number)}'
                sample = reports.sample_of(number)
                if sample is not None and isinstance(dataset, SeededDataset):
                    self._deaths[sample] += 1
                    if self._deaths[sample] == 2:
                        reason = 'two workers ended while they read it, the file that they '
                        dataset.condemn(*sample, f'{reason}opened last: {reports.file_of(number)}')
            said.append(text)
        if isinstance(reports, WorkerReports):
            reports.clear()
        return '; '.join(said)


def _dead_workers(batches: Any) -> list[int]:
    """Return the numbers of the workers that have ended, which may take a moment to show."""
    workers = getattr(batches, '_workers', ())
    for _ in range(10):
        dead = [number for number, worker in enumerate(workers) if not worker.is_alive()]
        if dead:
            return dead
        time.sleep(0.05)
    return []


class _Indices:
    """Batch sampler that gives those batches again that were given to workers which have ended.

    Args:
        batches: batch sampler.

    Attributes:
        unread: indices of the batches that have been given to workers and have not come back.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self.unread: deque[Any] = deque()
        self._batches = batches
        self._again: deque[Any] = deque()
        self._rest: Iterator[Any] = iter(())

    def begin(self) -> None:
        """Begin a pass over the batch sampler."""
        self.unread.clear()
        self._again.clear()
        self._rest = iter(self._batches)

    def __iter__(self) -> Iterator[Any]:
        self._again.extendleft(reversed(self.unread))
        self.unread.clear()
        while True:
            try:
                batch = self._again.popleft() if self._again else next(self._rest)
            except StopIteration:
                return
            self.unread.append(batch)
            yield batch

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # of those that a length is asked of
