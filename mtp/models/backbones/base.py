"""What the backbones share: the checkpoint they start from and the stages that stay frozen."""
from typing import Any

from mmengine.model import BaseModule, PretrainedInit
from torch import nn

from mtp.models.checkpoints import load_backbone_checkpoint


class BackboneBase(BaseModule):
    """A module that starts from any checkpoint file and keeps frozen stages in evaluation mode.

    Args:
        init_cfg: ``None`` or ``dict(type='Pretrained', checkpoint=PATH)``, a file that
            :func:`mtp.models.checkpoints.load_backbone_checkpoint` reads.

    Raises:
        ValueError: another ``init_cfg``.
    """

    def __init__(self, init_cfg: dict[str, Any] | None) -> None:
        if init_cfg is not None and (
                init_cfg.get('type') not in ('Pretrained', PretrainedInit)
                or set(init_cfg) != {'type', 'checkpoint'}):
            raise ValueError(
                f"init_cfg={init_cfg}: must be None or dict(type='Pretrained', checkpoint=PATH); "
                "the checkpoint's prefix is found by itself")
        super().__init__(init_cfg)

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, once; without one the constructor's values stay."""
        if self.init_cfg and not self.is_init:
            load_backbone_checkpoint(self, self.init_cfg['checkpoint'])
        self.is_init = True

    def frozen_modules(self) -> list[nn.Module]:
        """The submodules that are not trained."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> 'BackboneBase':
        """Set the mode; frozen submodules stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self
