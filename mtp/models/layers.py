"""Normalisation whose statistics belong to one data set at a time."""
import torch
import torch.distributed.nn.functional as dist_fn
from mmengine import dist
from torch import Tensor, nn


class PerDatasetBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of a batch that holds several data sets, one after the other.

    In training each data set's images are normalised with their own mean and variance, and the
    running statistics are updated once per data set in batch order, exactly as if the layer had
    been called once per data set (what the official MTP code does). In evaluation it is
    ``nn.BatchNorm2d``. Use it through ``norm_cfg=dict(type=PerDatasetBatchNorm, sync=True)``.

    Args:
        num_features: channels.
        sync: take the statistics over all processes (what SyncBN does; works with gloo on CPU
            and costs one all-reduce per layer for all data sets together).
        kwargs: of ``nn.BatchNorm2d``.

    Raises:
        ValueError: in training, when a data set has a single value per channel.
    """

    def __init__(self, num_features: int, sync: bool = True, **kwargs) -> None:
        super().__init__(num_features, **kwargs)
        self.sync = sync
        self.sizes: list[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``, whose images are split into data sets by ``self.sizes``."""
        if not self.training:
            return super().forward(x)
        sizes = self.sizes or [len(x)]
        synced = self.sync and dist.get_world_size() > 1
        world_size = dist.get_world_size() if synced else 1
        pixels = x.shape[2] * x.shape[3]
        if min(sizes) * pixels * world_size == 1:
            raise ValueError(
                'batch normalisation in training needs more than one value per channel and data '
                'set, but a data set has one image here and the map is 1 x 1: use at least two '
                'images per data set, several processes with sync=True, or group normalisation: '
                "norm_cfg=dict(type='GN', num_groups=32)")
        chunks = x.split(sizes)
        if synced:
            return torch.cat(self._synced(chunks))
        return torch.cat([super(PerDatasetBatchNorm, self).forward(chunk) for chunk in chunks])

    def _synced(self, chunks: tuple[Tensor, ...]) -> list[Tensor]:
        # Sums are taken about the running mean: E[x^2] - E[x]^2 would cancel badly in fp32
        # for maps whose mean is far from zero.
        shift = self.running_mean.clone()
        centred = [chunk.float() - shift.view(1, -1, 1, 1) for chunk in chunks]
        counts = [chunk.new_full((1,), c.numel() // c.shape[1], dtype=torch.float32)
                  for chunk, c in zip(chunks, centred)]
        local = torch.stack([
            torch.cat([c.sum((0, 2, 3)), c.square().sum((0, 2, 3)), n])
            for c, n in zip(centred, counts)])
        total = dist_fn.all_reduce(local)
        outputs = []
        for chunk, c, sums in zip(chunks, centred, total):
            count = sums[-1]
            mean, square = (sums[:-1] / count).chunk(2)
            var = (square - mean.square()).clamp(min=0)
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean + shift, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
            scale = self.weight * (var + self.eps).rsqrt()
            out = (c - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
            outputs.append((out + self.bias.view(1, -1, 1, 1)).to(chunk.dtype))
        return outputs


def set_dataset_sizes(module: nn.Module, sizes: list[int]) -> None:
    """Tell every :class:`PerDatasetBatchNorm` of ``module`` how the next batch is split."""
    for layer in module.modules():
        if isinstance(layer, PerDatasetBatchNorm):
            layer.sizes = sizes
