"""Random draws that a resumed run repeats."""

import random

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtp.registry import HOOKS


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Seeds the generators before each training batch from (seed, iteration, place of the batch).

    What the model draws (drop path, dropout, how mmpretrain mixes a batch's images) is then a
    function of the iteration: a resumed run repeats an uninterrupted one without random states in
    the checkpoint; on the CPU bit for bit, on a GPU up to kernels that add in varying order. The
    place counts the batches of an update over all processes: one process with ``n`` batches draws
    what ``n`` processes draw. Data are not concerned: a sample's augmentation follows its own
    ``sample_seed``.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Seed for the first batch of an update."""
        self.before_train_batch(runner, 0)

    def before_train_batch(self, runner: Runner, batch_idx: int) -> None:
        """Seed the generators of Python, NumPy and torch for a batch of this process's update."""
        place = batch_idx * get_world_size() + runner.rank
        sequence = np.random.SeedSequence((runner.seed, runner.iter, place))
        seed = int(sequence.generate_state(1, np.uint64)[0])
        torch.manual_seed(seed)  # the accelerators' too
        random.seed(seed)
        np.random.seed(seed % 2**32)
