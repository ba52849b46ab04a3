"""Batch normalisation with batch statistics of one data set at a time."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from mmengine import dist
from torch import Tensor, nn

from mtp.ops.grouped_batch_norm import deferred_batch_norm, grouped_batch_norm
from mtp.registry import MODELS


@MODELS.register_module()
class PerDatasetBatchNorm(nn.BatchNorm2d):
    """Batch normalisation, over all processes, of a batch that may hold several data sets.

    In training each data set's images are normalised with their own mean and variance, and the
    running statistics are updated once per data set in batch order. This equals one call of the
    layer per data set, as in the official MTP code. In evaluation the layer is ``nn.BatchNorm2d``.
    With a single data set in the batch it is SyncBN, which here also runs on CPUs and compiles
    without a graph break. Use it through ``norm_cfg=dict(type=PerDatasetBatchNorm)``.

    Args:
        num_features: number of channels.
        sync: whether statistics are computed over all processes, at the cost of one all-reduce
            per layer and direction for all data sets together.
        kwargs: options of ``nn.BatchNorm2d``.

    Raises:
        ValueError: an unsupported option; in training, a data set with a single value per channel.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, sync: bool = True, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        if not (self.affine and self.track_running_stats and self.momentum is not None):
            raise ValueError(
                f'{type(self).__name__} takes affine=True, track_running_stats=True '
                'and a number as momentum'
            )
        self.sync = sync
        self.sizes: list[int] | None = None

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Normalise ``(B, C, H, W)``, whose images are split into data sets by ``self.sizes``.

        Args:
            x: maps.
            relu: whether a ReLU follows, which then costs no launch of its own.
        """
        if self.training:
            return grouped_batch_norm(x, **self._settings(x), relu=relu)
        x = super().forward(x)
        return F.relu(x, inplace=True) if relu else x

    def deferred(self, x: Tensor, relu: bool = False) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Update the statistics; return maps, and the function that makes the result of them.

        A backward pass can call the function again, see
        :func:`mtp.ops.grouped_batch_norm.deferred_batch_norm`. Arguments are those of
        :meth:`forward`.
        """
        if self.training:
            return deferred_batch_norm(x, **self._settings(x), relu=relu)
        return self(x, relu), nn.Identity()

    def _settings(self, x: Tensor) -> dict[str, Any]:
        """Return parameters, statistics and options of the operator that normalises ``x``."""
        sizes = self.sizes or [len(x)]
        world_size = dist.get_world_size() if self.sync else 1
        if min(sizes) * x.shape[2] * x.shape[3] * world_size == 1:
            raise ValueError(
                'batch normalisation in training needs more than one value per channel and data '
                'set, but a data set has one image here and the map is 1 x 1: use at least two '
                'images per data set, several processes with sync=True, or group normalisation: '
                "norm_cfg=dict(type='GN', num_groups=32)"
            )
        return dict(
            weight=self.weight,
            bias=self.bias,
            running_mean=self.running_mean,
            running_var=self.running_var,
            num_batches_tracked=self.num_batches_tracked,
            sizes=sizes,
            momentum=self.momentum,
            eps=self.eps,
            synced=world_size > 1,
        )


def set_dataset_sizes(module: nn.Module, sizes: list[int]) -> None:
    """Tell every :class:`PerDatasetBatchNorm` of ``module`` how the next batch is split."""
    for layer in module.modules():
        if isinstance(layer, PerDatasetBatchNorm):
            layer.sizes = sizes
