"""Shared by the backbones: initial checkpoint, input bands, frozen stages, stochastic depth."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mtp.models.weights.loading import LoadReport, load_backbone_checkpoint


class BackboneBase(BaseModule):
    """Module that loads an initial checkpoint and keeps frozen stages in evaluation mode.

    Args:
        init_cfg: ``None`` or ``dict(type='Pretrained', checkpoint=PATH)``, where ``PATH`` is a file
            that :func:`mtp.models.weights.loading.load_backbone_checkpoint` reads.
        in_chans: number of bands of the images.

    Attributes:
        first_conv: name of the convolution that takes the images.
        load_report: what became of each entry of the initial checkpoint; None before it is loaded.

    Raises:
        ValueError: ``init_cfg`` is anything else, or ``in_chans`` is not positive.
    """

    is_init: bool
    first_conv: ClassVar[str]
    load_report: LoadReport | None = None

    def __init__(self, init_cfg: dict[str, Any] | None, in_chans: int) -> None:
        if in_chans < 1:
            raise ValueError(f'in_chans={in_chans}: images have at least one band')
        if init_cfg is not None and (
            init_cfg.get('type') not in ('Pretrained', PretrainedInit)
            or set(init_cfg) != {'type', 'checkpoint'}
        ):
            raise ValueError(
                f"init_cfg={init_cfg}: must be None or dict(type='Pretrained', checkpoint=PATH); "
                "the checkpoint's prefix is detected automatically"
            )
        super().__init__(init_cfg)
        self.in_chans = in_chans

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, once; without one, keep the constructor's values."""
        if self.init_cfg and not self.is_init:
            self.load_report = load_backbone_checkpoint(self, self.init_cfg['checkpoint'])
        self.is_init = True

    def frozen_modules(self) -> list[nn.Module]:
        """Return the submodules that are not trained."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> 'BackboneBase':
        """Set the mode; frozen submodules stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self


class StochasticDepth(nn.Module):
    """Stochastic depth (drop path) of residual branches, drawn for all blocks at once.

    Blocks take the drawn factors as an argument. They thus hold no rate by which their compiled
    code would differ, and draw nothing when activations are recomputed.

    Source: arXiv:1603.09382.

    Args:
        rates: drop probability of each block, 0..1, applied to each of its two branches.
    """

    kept: Tensor

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.acts = any(rates)
        self.register_buffer('kept', 1 - torch.tensor(rates), persistent=False)

    def forward(self, batch: int) -> tuple[Tensor | None, ...]:
        """Draw the factors of each block's branches.

        Args:
            batch: number of images.

        Returns:
            tuple: for each block ``(2, batch)``, 0 or the inverse of the probability to be kept;
            all None in evaluation mode or where no block drops anything.
        """
        if not self.training or not self.acts:
            return (None,) * len(self.kept)
        kept = self.kept[:, None, None].expand(-1, 2, batch)
        return (torch.bernoulli(kept) / kept).unbind()


def add_branch(x: Tensor, branch: Tensor, factors: Tensor | None) -> Tensor:
    """Return ``x + branch``, the branch scaled by each image's factor.

    Args:
        x: input of the branch, ``(B, ...)``.
        branch: output of the branch, of the shape of ``x``.
        factors: factor of each image, ``(B,)``, or None for no scaling.
    """
    if factors is None:
        return x + branch
    return torch.addcmul(x, branch, factors.view(-1, *(1,) * (x.dim() - 1)))


def dtype_of_products(x: Tensor) -> torch.dtype:
    """Return the dtype in which layers multiply a tensor: autocast's, or its own without it."""
    device = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(device):  # which meta tensors do not know
        return x.dtype
    return torch.get_autocast_dtype(device)
