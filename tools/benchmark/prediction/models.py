"""Models with random weights, to measure prediction with."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from torch import nn

from mtp.data.datasets import DATASETS
from mtp.engine import self_description
from mtp.models.data_preprocessor import BandSegDataPreprocessor
from mtp.prediction.inputs import Loader
from mtp.prediction.scene_files import Model
from mtp.recipes.shrink import shrink

RECIPES = Path(__file__).parents[3] / 'configs' / 'finetune' / 'horizontal_detection' / 'dior'
CLASSES = 7  # of the model of pixels


def make_detector(name: str, side: int) -> Model:
    """Return the Faster R-CNN of the recipe for DIOR, for other tiles.

    Args:
        name: ``'tiny'``, or name of an encoder that the recipe has.
        side: side of a tile in pixels.
    """
    cfg = Config.fromfile(RECIPES / f'{"vit_b_rvsa" if name == "tiny" else name}.py')
    if name == 'tiny':
        shrink(cfg, side)
    cfg.model.backbone.update(img_size=side, init_cfg=None)
    for step in cfg.test_dataloader.dataset.pipeline:
        if 'scale' in step:
            step.scale = (side, side)
    meta = dict(dataset_meta=dict(classes=DATASETS['dior'].classes))
    description = self_description.of_config(cfg, meta)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(description['scope']):
        module = MODELS.build(ConfigDict(description['model']))
        loader = Loader(description['pipeline'])
    return Model(module, description, loader, __file__)


class PixelColours(BaseModel):
    """Segmentation by the colour of a pixel alone: all but one layer is mtp's own work."""

    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor = BandSegDataPreprocessor(
            mean=[0.0] * 3, std=[1.0] * 3, size_divisor=1
        )
        self.layer = nn.Conv2d(3, CLASSES, 1)

    def forward(self, inputs: Any, data_samples: list, mode: str) -> list:
        """Return the samples with logits and classes."""
        for logits, sample in zip(self.layer(inputs), data_samples):
            sample.seg_logits = PixelData(data=logits)
            sample.pred_sem_seg = PixelData(data=logits.argmax(0, keepdim=True))
        return data_samples


def make_pixel_model(side: int) -> Model:
    """Return a segmentation model of one layer.

    Args:
        side: side of a tile in pixels.
    """
    torch.manual_seed(0)
    description = dict(
        task='segmentation',
        scope='mmseg',
        model=dict(backbone=dict(img_size=side)),
        datasets={'': dict(classes=[f'class {i}' for i in range(CLASSES)], palette=[], tasks=[])},
        scenes={},
    )
    loader = Loader([dict(type='mtp.LoadImage'), dict(type='mmseg.PackSegInputs')])
    return Model(PixelColours(), description, loader, __file__)
