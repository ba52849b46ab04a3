"""Seeds per iteration, so that a resumed run draws the same random numbers."""

import random

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtp.registry import HOOKS


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Hook that seeds the generators before each batch from (seed, iteration, batch index).

    Random draws of the model (drop path, dropout, mmpretrain's mixing of a batch) then depend only
    on the iteration. So a resumed run repeats an uninterrupted one without random states in the
    checkpoint: bit for bit on the CPU, and on a GPU up to kernels that add in varying order. The
    batch index counts the batches of an update over all processes: one process with ``n`` batches
    draws the same as ``n`` processes. Data augmentation is not affected: it uses the
    ``sample_seed`` of each sample.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Seed the generators for the first batch of an update."""
        self.before_train_batch(runner, 0)

    def before_train_batch(self, runner: Runner, batch_idx: int) -> None:
        """Seed the generators of Python, NumPy and torch for a batch of this process's update."""
        place = batch_idx * get_world_size() + runner.rank
        sequence = np.random.SeedSequence((runner.seed, runner.iter, place))
        seed = int(sequence.generate_state(1, np.uint64)[0])
        torch.manual_seed(seed)  # the accelerators' too
        random.seed(seed)
        np.random.seed(seed % 2**32)
