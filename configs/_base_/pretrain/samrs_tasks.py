"""The paper's multi-task pretraining on SAMRS at 448 pixels, but for the backbone's name."""

from mmengine.config import read_base

from mtp.models import build_backbone

with read_base():
    from .datasets.samrs import *
    from .models.multitask import *
    from .runtime import *
    from .schedules.mtp_80k import *

# The paper's: 32 GPUs with an image of each data set.
total_batch_size = 96
images_per_gpu = 12

model.merge(
    dict(
        datasets=num_classes,
        data_preprocessor=dict(pad_size_divisor=448),
        backbone=dict(type=build_backbone, img_size=448, drop_path_rate=0.1),
    )
)
