"""The demo with a fourth task, and smaller: four blocks of 48 channels, images of 64 pixels."""

from mmengine.config import read_base

from mtp.models.backbones.vit_rvsa import ViTRVSA
from tests.models.density.head import DensityTask
from tests.models.density.metric import CountError
from tests.models.density.row import DensityLabel

with read_base():
    from ....configs._base_.pretrain.demo import *

model.backbone = dict(
    type=ViTRVSA,
    img_size=64,
    patch_size=8,
    embed_dim=48,
    depth=4,
    num_heads=3,
    interval=2,
    out_indices=(0, 1, 2, 3),
)
model.data_preprocessor.update(pad_size_divisor=64)
model.tasks.density = dict(type=DensityTask)
train_pipeline[0].update(size=64)
test_pipeline[1].update(scale=(64, 64))
for loader, pipeline in ((train_dataloader, train_pipeline), (val_dataloader, test_pipeline)):
    loader.update(num_workers=0, persistent_workers=False)
    for dataset in loader.dataset.datasets:
        dataset.pipeline = pipeline
        dataset.tasks = ['semantic', 'instance', 'rotated', dict(type=DensityLabel)]
val_evaluator.tasks = dict(density=dict(type=CountError))
total_batch_size = 6
param_scheduler = None
