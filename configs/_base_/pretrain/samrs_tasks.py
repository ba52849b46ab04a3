"""The paper's multi-task pretraining on SAMRS at 448 pixels; a leaf names the backbone."""

from mmengine.config import read_base

from mtp.models import build_backbone

with read_base():
    from .datasets.samrs import *
    from .models.multitask import *
    from .runtime import *
    from .schedules.mtp_80k import *

# As in the paper: 32 GPUs with one image per data set each.
total_batch_size = 96
images_per_gpu = 12

model.merge(
    dict(
        datasets=num_classes,
        data_preprocessor=dict(pad_size_divisor=448),
        backbone=dict(type=build_backbone, img_size=448, drop_path_rate=0.1),
    )
)
