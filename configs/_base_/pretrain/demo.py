"""Multi-task pretraining on synthetic images in minutes on a CPU; a leaf names the backbone."""

from mmengine.config import read_base

from mtp.models import build_backbone

with read_base():
    from .datasets.synthetic import *
    from .models.multitask_small import *
    from .runtime import *
    from .schedules.demo import *

total_batch_size = 6

model.merge(
    dict(
        datasets=num_classes,
        data_preprocessor=dict(pad_size_divisor=128),
        backbone=dict(type=build_backbone, img_size=128),
    )
)
