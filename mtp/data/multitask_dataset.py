"""Several data sets as one, with random choices that are a function of the sample's seed."""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from torch.utils.data import ConcatDataset

from mtp.registry import DATASETS


@DATASETS.register_module()
class MultiTaskDataset(ConcatDataset):
    """Concatenation of data sets, each with its own classes and labels.

    Args:
        datasets: data sets, or their configs.

    Attributes:
        metainfo: ``dict(datasets={name: metainfo})``.

    Raises:
        ValueError: two data sets have the same name.
    """

    def __init__(self, datasets: Sequence[BaseDataset | dict]) -> None:
        built = [DATASETS.build(d) if isinstance(d, dict) else d for d in datasets]
        super().__init__(built)
        names = [dataset.metainfo['name'] for dataset in built]
        if len(set(names)) < len(names):
            raise ValueError(f'the data sets are called {names}: give each a `name` of its own')
        self.metainfo = dict(datasets={d.metainfo['name']: d.metainfo for d in built})

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        """Return a sample.

        Args:
            item: index, or in training ``(index, sample_seed)``. All random choices of the pipeline
                are then functions of the seed, in any process and worker.
        """
        if not isinstance(item, tuple):
            return super().__getitem__(item)
        index, sample_seed = item
        # If the crop lost all objects, the data set itself draws another sample with numpy's
        # generator, which is also a function of the seed.
        with seeded(sample_seed):
            sample = super().__getitem__(index)
        sample['data_samples'].set_field(sample_seed, 'sample_seed', field_type='metainfo')
        return sample


def stable_hash(*values: int | str) -> int:
    """Return a hash in 0..2^63-1 that is the same in every process and Python version."""
    digest = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which OpenMMLab's transforms use, within the ``with`` block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # not torch.manual_seed: in a worker, each call queues a seeding of the GPU, with a traceback
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
