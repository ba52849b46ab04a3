"""Normalisation whose statistics belong to one data set at a time."""
import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor, nn

from mtp.compat import snapshot


@torch.library.custom_op('mtp::all_reduce', mutates_args=())
def all_reduce(x: Tensor) -> Tensor:
    """The sum over all processes, with a gradient; an operator that ``torch.compile`` keeps whole.
    """
    total = x.clone()
    torch.distributed.all_reduce(total)
    return total


all_reduce.register_fake(torch.empty_like)
all_reduce.register_autograd(lambda ctx, grad: all_reduce(grad.contiguous()))


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
        self.num_batches_tracked += len(sizes)
        if synced:
            return self._synced(x, sizes)
        parts = [F.batch_norm(part, self.running_mean, self.running_var, self.weight, self.bias,
                              True, self.momentum, self.eps) for part in x.split(sizes)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _synced(self, x: Tensor, sizes: list[int]) -> Tensor:
        # Sums are taken about the running mean: E[x^2] - E[x]^2 would cancel badly in fp32
        # for maps whose mean is far from zero.
        shift = snapshot(self.running_mean)
        centred = x.float() - shift.view(1, -1, 1, 1)
        pixels = torch.full((len(x), 1), x.shape[2] * x.shape[3], dtype=torch.float32,
                            device=x.device)
        sums = torch.cat([centred.sum((2, 3)), centred.square().sum((2, 3)), pixels], 1)
        total = all_reduce(torch.stack([part.sum(0) for part in sums.split(sizes)]))
        count = total[:, -1:]
        mean, square = (total[:, :-1] / count).chunk(2, 1)  # (data sets, C)
        var = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            means, variances = mean + shift, var * count / (count - 1)
            for i in range(len(sizes)):
                self.running_mean.lerp_(means[i], self.momentum)
                self.running_var.lerp_(variances[i], self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        of_dataset = torch.stack([scale, self.bias - mean * scale])
        scale, offset = torch.cat([
            of_dataset[:, i:i + 1].expand(-1, size, -1) for i, size in enumerate(sizes)],
            1)[..., None, None]  # (B, C, 1, 1)
        return torch.addcmul(offset, centred, scale).to(x.dtype)


def set_dataset_sizes(module: nn.Module, sizes: list[int]) -> None:
    """Tell every :class:`PerDatasetBatchNorm` of ``module`` how the next batch is split."""
    for layer in module.modules():
        if isinstance(layer, PerDatasetBatchNorm):
            layer.sizes = sizes
