"""Export of the encoder when training ends."""

from pathlib import Path
from typing import cast

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

import mtp
from mtp.engine.parallel import unwrap
from mtp.engine.shards import whole_state_dict
from mtp.files import whole
from mtp.registry import HOOKS


@HOOKS.register_module()
class ExportEncoderHook(Hook):
    """Hook that writes the backbone to ``<work_dir>/encoder.pth`` when training ends.

    The file has two entries: ``state_dict``, with the backbone's own key names, and ``meta``:
    ``mtp_version``, ``backbone`` (its config as text) and ``iteration``. It loads with
    ``weights_only=True``; ``build_backbone(..., pretrained=...)`` and
    ``init_cfg=dict(type='Pretrained', checkpoint=...)`` accept it. It is written atomically.
    """

    # After CheckpointHook (VERY_LOW), so that encoder.pth marks a complete run.
    priority = 'LOWEST'

    def after_train(self, runner: Runner) -> None:
        """Write the file on the main process."""
        path = Path(runner.work_dir) / 'encoder.pth'
        self.export(runner, path)
        runner.logger.info(f'Encoder written to {path}')

    def export(self, runner: Runner, path: Path) -> None:
        """Write the encoder to ``path`` on the main process; all processes must call it."""
        state_dict = whole_state_dict(cast(nn.Module, unwrap(runner.model).backbone))
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
        # An open file: torch would write the name of a path into the archive.
        with whole(path) as unfinished, open(unfinished, 'wb') as file:
            torch.save(content, file)
