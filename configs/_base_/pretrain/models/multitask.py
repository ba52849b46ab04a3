"""The multi-task model of the MTP pretraining: three tasks on one encoder."""

from mmengine.config import read_base

from mtp.models import MultiTaskDataPreprocessor, MultiTaskPretrainer

with read_base():
    from ..heads.instance import instance
    from ..heads.rotated import rotated
    from ..heads.semantic import semantic

model = dict(
    type=MultiTaskPretrainer,
    data_preprocessor=dict(type=MultiTaskDataPreprocessor),
    tasks=dict(semantic=semantic, instance=instance, rotated=rotated),
)
