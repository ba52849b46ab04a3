"""What the backbones share: checkpoint to start from, frozen stages, stochastic depth."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mtp.models.weights.loading import load_backbone_checkpoint


class BackboneBase(BaseModule):
    """A module that starts from any checkpoint file and keeps frozen stages in evaluation mode.

    Args:
        init_cfg: ``None`` or ``dict(type='Pretrained', checkpoint=PATH)``, a file that
            :func:`mtp.models.weights.loading.load_backbone_checkpoint` reads.

    Raises:
        ValueError: another ``init_cfg``.
    """

    def __init__(self, init_cfg: dict[str, Any] | None) -> None:
        if init_cfg is not None and (
            init_cfg.get('type') not in ('Pretrained', PretrainedInit)
            or set(init_cfg) != {'type', 'checkpoint'}
        ):
            raise ValueError(
                f"init_cfg={init_cfg}: must be None or dict(type='Pretrained', checkpoint=PATH); "
                "the checkpoint's prefix is found by itself"
            )
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


class StochasticDepth(nn.Module):
    """Which images skip which residual branch (drop path), drawn for all blocks at once.

    Blocks take what is drawn as an argument: so they have no settings of their own by which their
    compiled code would differ, and draw nothing when they are computed again.

    Source: arXiv:1603.09382.

    Args:
        rates: of each block, the probability that an image skips one of its two branches.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.acts = any(rates)
        self.register_buffer('kept', 1 - torch.tensor(rates), persistent=False)

    def forward(self, batch: int) -> tuple[Tensor | None, ...]:
        """For each block the factors ``(2, batch)`` of its branches.

        A factor is 0 or the inverse of the probability to be kept; None in evaluation mode and
        where no block drops anything.
        """
        if not self.training or not self.acts:
            return (None,) * len(self.kept)
        kept = self.kept[:, None, None].expand(-1, 2, batch)
        return (torch.bernoulli(kept) / kept).unbind()


def add_branch(x: Tensor, branch: Tensor, factors: Tensor | None) -> Tensor:
    """``x + branch``, the branch times each image's factor.

    Args:
        x: ``(B, ...)``.
        branch: of the shape of ``x``.
        factors: ``(B,)``, or None for no factors.
    """
    if factors is None:
        return x + branch
    return torch.addcmul(x, branch, factors.view(-1, *(1,) * (x.dim() - 1)))
