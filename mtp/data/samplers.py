"""Order of the images, a function of the seed and the iteration."""

from collections.abc import Iterator

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch import Tensor
from torch.utils.data import Sampler

from mtp.data.multitask_dataset import MultiTaskDataset, stable_hash
from mtp.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class MultiDatasetSampler(Sampler):
    """Sampler of endless batches with a fixed number of images from each data set.

    Each ``images_per_batch`` consecutive indices are one batch of this process, data sets in order.
    A data set is shuffled again whenever all its images have been drawn. The processes share a
    global batch of ``world_size`` times these numbers. Its position ``j`` of data set ``k`` at
    iteration ``t`` is the same image with the same ``sample_seed`` for any number of processes.

    Args:
        dataset: data set to sample from.
        images_per_dataset: number of images from each data set per batch and process: one number
            for all, or data set's name -> number.
        seed: seed of the order and the samples; None for a random one, the same on all processes.

    Raises:
        ValueError: the names are not those of the data sets, or a number is below 1.
    """

    def __init__(
        self,
        dataset: MultiTaskDataset,
        images_per_dataset: int | dict[str, int] = 1,
        seed: int | None = None,
    ) -> None:
        names = list(dataset.metainfo['datasets'])
        if isinstance(images_per_dataset, int):
            images_per_dataset = dict.fromkeys(names, images_per_dataset)
        if set(images_per_dataset) != set(names) or min(images_per_dataset.values()) < 1:
            raise ValueError(
                f'images_per_dataset={dict(images_per_dataset)}: give a number of at '
                f'least 1 for each of {names}'
            )
        self.counts = [images_per_dataset[name] for name in names]
        ends = dataset.cumulative_sizes
        self.offsets = [0, *ends[:-1]]
        self.sizes = [end - start for start, end in zip(self.offsets, ends)]
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0

    @property
    def images_per_batch(self) -> int:
        """Number of images, of all data sets together, in a batch of one process."""
        return sum(self.counts)

    def skip(self, num_samples: int) -> None:
        """Skip the first ``num_samples`` samples of this process, on resume."""
        self.start = num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        iteration, skipped = divmod(self.start, self.images_per_batch)
        orders: list[dict[int, Tensor]] = [{} for _ in self.counts]
        while True:
            yield from self._batch(iteration, orders)[skipped:]
            iteration, skipped = iteration + 1, 0

    def __len__(self) -> int:
        """Return the number of samples until the largest data set has been seen once.

        The sampler itself never ends.
        """
        batches = max(
            -(-size // (count * self.world_size)) for size, count in zip(self.sizes, self.counts)
        )
        return batches * self.images_per_batch

    def _batch(self, iteration: int, orders: list[dict[int, Tensor]]) -> list[tuple[int, int]]:
        """Return this process's ``(index, sample_seed)`` pairs; ``orders`` caches permutations."""
        samples = []
        for k, (count, size) in enumerate(zip(self.counts, self.sizes)):
            start = iteration * count * self.world_size + self.rank * count
            for position in range(start, start + count):
                epoch, place = divmod(position, size)
                if epoch not in orders[k]:
                    generator = torch.Generator().manual_seed(stable_hash(self.seed, k, epoch))
                    orders[k].clear()
                    orders[k][epoch] = torch.randperm(size, generator=generator)
                index = self.offsets[k] + int(orders[k][epoch][place])
                samples.append((index, stable_hash(self.seed, k, position, 'sample')))
        return samples
