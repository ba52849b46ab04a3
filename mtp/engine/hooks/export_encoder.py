"""The encoder alone, written when training ends."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mtp
from mtp.engine.parallel import unwrap
from mtp.engine.shards import whole_state_dict
from mtp.files import whole
from mtp.registry import HOOKS


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
        state_dict = whole_state_dict(unwrap(runner.model).backbone)
        if not is_main_process():
            return
        content = {
            'state_dict': state_dict,
            'meta': {
                'mtp_version': mtp.__version__,
                'backbone': Config({'backbone': runner.cfg.model.backbone}).pretty_text,
                'iteration': runner.iter,
            },
        }
        # As a file: given a path, torch writes its name into it.
        with whole(path) as unfinished, open(unfinished, 'wb') as file:
            torch.save(content, file)
