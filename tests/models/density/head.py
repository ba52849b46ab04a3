"""How many objects there are and where, as a density map: the decoder."""

import torch
import torch.nn.functional as F
from mmengine.model import ModuleDict
from mmengine.structures import PixelData
from torch import nn

from mtp.models.tasks import Task
from mtp.registry import MODELS

AREA = 16**2


@MODELS.register_module()
class DensityTask(Task):
    """Objects in ``AREA`` pixels at each place of the finest map, by convolutions."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Conv2d(in_channels[0], 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GELU(),
        )
        self.last = ModuleDict({name: nn.Conv2d(64, 1, 1) for name in num_classes})

    def loss(self, features, batch):
        maps = self.decoder(features[0])
        truth = torch.stack([sample.gt_density.density for sample in batch.samples])
        truth = AREA * F.avg_pool2d(truth, truth.shape[2] // maps.shape[2])
        return {
            name: dict(loss_density=F.mse_loss(self.last[name](maps[group]), truth[group]))
            for name, group in batch.groups.items()
        }

    def predict(self, features, batch):
        maps = self.decoder(features[0])
        for sample, of_image in zip(batch.samples, maps):
            density = self.last[sample.dataset](of_image[None]).clamp(min=0) / AREA
            density = F.interpolate(density, size=sample.batch_input_shape, mode='bilinear')
            (height, width), shape = sample.img_shape, sample.ori_shape[:2]
            density = F.interpolate(density[:, :, :height, :width], size=shape, mode='bilinear')
            density *= height * width / (shape[0] * shape[1])  # per pixel of the original
            sample.pred_density = PixelData(density=density[0])
