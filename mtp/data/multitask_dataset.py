"""Several data sets as one, with randomness that belongs to the sample."""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset

from mtp.registry import DATASETS


@DATASETS.register_module()
class MultiTaskDataset(ConcatDataset):
    """Data sets one after the other, each with its own classes and labels.

    Args:
        datasets: data sets, or their configs.

    Attributes:
        metainfo: ``dict(datasets={name: metainfo})``.

    Raises:
        ValueError: two data sets of one name.
    """

    def __init__(self, datasets: Sequence[Dataset | dict]) -> None:
        super().__init__([DATASETS.build(d) if isinstance(d, dict) else d for d in datasets])
        names = [dataset.metainfo['name'] for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise ValueError(f'the data sets are called {names}: give each a `name` of its own')
        self.metainfo = dict(datasets={d.metainfo['name']: d.metainfo for d in self.datasets})

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        """A sample.

        Args:
            item: an index, or in training ``(index, sample_seed)``: then all random choices of
                the pipeline are functions of the seed, whichever process and worker runs it.
        """
        if not isinstance(item, tuple):
            return super().__getitem__(item)
        index, sample_seed = item
        # A sample whose crop lost all objects is drawn again by the data set itself, from numpy's
        # generator: a function of the seed as well.
        with seeded(sample_seed):
            sample = super().__getitem__(index)
        sample['data_samples'].set_field(sample_seed, 'sample_seed', field_type='metainfo')
        return sample


def stable_hash(*values: int | str) -> int:
    """A number in 0..2^63-1 that is the same in every process and Python version."""
    digest = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which the transforms of OpenMMLab draw from, for a while."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # not torch.manual_seed: in a worker it keeps a note for the GPU, with a traceback, each time
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
