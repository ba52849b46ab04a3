"""DIOR: Faster R-CNN at 800 pixels; `JPEGImages-{trainval,test}/`, `DIOR_{trainval,test}_coco.json`."""
from mmdet.models.detectors import FasterRCNN
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.dense_heads import RPNHead
from mmdet.models.task_modules import RandomSampler
from mmengine.config import read_base

from mtp.data import SUBSETS

with read_base():
    from ..._base_.heads.instance import instance
    from .detection import *
