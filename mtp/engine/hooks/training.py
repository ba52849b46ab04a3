"""Hooks of a training run: reproducible random draws, and the encoder alone at the end."""
import os
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

import mtp
from mtp.engine.shards import whole_state_dict
from mtp.registry import HOOKS


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Seeds torch before each training batch from (seed, iteration, place of the batch).

    What the model draws (drop path, dropout) is then a function of the iteration: a resumed run
    repeats an uninterrupted one without random states in the checkpoint; on the CPU bit for bit,
    on a GPU up to kernels that add in varying order. The place counts the batches of an update
    over all processes: one process with ``n`` batches draws what ``n`` processes draw. Data are
    not concerned: a sample's augmentation follows its own ``sample_seed``.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None
                          ) -> None:
        """Seed for the first batch of an update."""
        self.before_train_batch(runner, 0)

    def before_train_batch(self, runner: Runner, batch_idx: int) -> None:
        """Seed the CPU's and the accelerators' generators for a batch of this process's update."""
        place = batch_idx * get_world_size() + runner.rank
        sequence = np.random.SeedSequence((runner.seed, runner.iter, place))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


@HOOKS.register_module()
class ExportEncoderHook(Hook):
    """Writes the backbone alone to ``<work_dir>/encoder.pth`` when training ends.

    The file holds ``state_dict``, the backbone's with its own key names, and ``meta``:
    ``mtp_version``, ``backbone`` (its config as text) and ``iteration``. It loads with
    ``weights_only=True`` and is what ``build_backbone(..., pretrained=...)`` and
    ``init_cfg=dict(type='Pretrained', checkpoint=...)`` take. It appears whole or not at all.
    """

    # After CheckpointHook (VERY_LOW): encoder.pth tells that the run is complete.
    priority = 'LOWEST'

    def after_train(self, runner: Runner) -> None:
        """Write the file, on the main process."""
        path = Path(runner.work_dir) / 'encoder.pth'
        self.export(runner, path)
        runner.logger.info(f'Encoder written to {path}')

    def export(self, runner: Runner, path: Path) -> None:
        """Write the encoder to ``path``, on the main process; all processes must call."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state_dict = whole_state_dict(model.backbone)
        if not is_main_process():
            return
        content = {
            'state_dict': state_dict,
            'meta': {'mtp_version': mtp.__version__,
                     'backbone': Config({'backbone': runner.cfg.model.backbone}).pretty_text,
                     'iteration': runner.iter}}
        unfinished = path.with_suffix('.pth.tmp')
        torch.save(content, unfinished)
        os.replace(unfinished, path)
