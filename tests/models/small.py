"""A small multi-task model and labelled images for tests."""

from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures import RotatedBoxes
from torch import nn

from mtp.models.backbones import build_backbone, list_backbones
from mtp.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TASKS = ('semantic', 'instance', 'rotated')


def _num_parameters(backbone):
    with torch.device('meta'):
        return sum(p.numel() for p in build_backbone(backbone).parameters())


# One of each family at least, small enough to run in a test.
SMALL_BACKBONES = [name for name in list_backbones() if _num_parameters(name) < 2e6]


# A plain ViT with rotated windows, of four blocks.
TINY_RVSA = dict(
    type=build_backbone,
    name='vit_tiny_rvsa',
    img_size=64,
    embed_dim=48,
    depth=4,
    num_heads=2,
    out_indices=(0, 1, 2, 3),
)


@MODELS.register_module()
class ToyBackbone(BaseModule):
    """Four convolutions with the outputs that every backbone has."""

    out_channels = (16, 16, 16, 16)

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Conv2d(3, 16, 4, 4), *(nn.Conv2d(16, 16, 2, 2) for _ in range(3))]
        )

    def compiled_parts(self):
        return list(self.stages)

    def forward(self, x):
        outs = []
        for stage in self.stages:
            x = stage(x)
            outs.append(x)
        return outs


def build_model(datasets, tasks=TASKS, backbone=None):
    """The small model of the demo config on ``datasets``, as the model takes them."""
    model = Config.fromfile(CONFIGS / '_base_' / 'pretrain' / 'models' / 'multitask_small.py').model
    model.merge(
        dict(
            backbone=backbone or dict(type='ToyBackbone'),
            datasets=datasets,
            data_preprocessor=dict(pad_size_divisor=64),
        )
    )
    model.tasks = {task: model.tasks[task] for task in tasks}
    torch.manual_seed(0)
    return MODELS.build(model)


def make_sample(
    dataset, tasks=TASKS, objects=((1, (10, 12, 40, 30)), (0, (30, 34, 60, 60))), seed=0, size=64
):
    """An image with bright boxes on noise: ``(image, sample)``."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 100, (3, size, size), dtype=np.uint8)
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    labels = torch.tensor([label for label, _ in objects], dtype=torch.long)
    masks = np.zeros((len(objects), size, size), np.uint8)
    seg = np.zeros((size, size), np.int64)
    for mask, (label, (x1, y1, x2, y2)) in zip(masks, objects):
        image[label % 3, y1:y2, x1:x2] = 255
        mask[y1:y2, x1:x2] = 1
        seg[y1:y2, x1:x2] = label + 1
    sample = DetDataSample(
        metainfo=dict(
            dataset=dataset,
            img_path=f'{dataset}_{seed}.png',
            ori_shape=(size, size),
            img_shape=(size, size),
            scale_factor=(1.0, 1.0),
            sample_seed=seed,
        )
    )
    if 'semantic' in tasks:
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(seg)[None])
    if 'instance' in tasks:
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(boxes), labels=labels, masks=BitmapMasks(masks, size, size)
        )
    if 'rotated' in tasks:
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rboxes = np.concatenate([centres, sides, np.zeros((len(boxes), 1), np.float32)], 1)
        sample.gt_rotated_instances = InstanceData(bboxes=RotatedBoxes(rboxes), labels=labels)
    return torch.from_numpy(image), sample


def losses_of(model, samples):
    """The losses of one training forward."""
    inputs, data_samples = zip(*samples)
    data = model.data_preprocessor(
        dict(inputs=list(inputs), data_samples=list(data_samples)), training=True
    )
    return model(**data, mode='loss')
