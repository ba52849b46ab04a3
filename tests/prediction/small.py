"""Checkpoints of small models of each task, with random weights."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mtp.cli.own_training import Request, own_config
from mtp.engine import self_description
from mtp.recipes import multispectral
from tests.test_own_data import class_folders, coco, dota, maps, pairs, voc

MAKERS = dict(
    classification=class_folders,
    horizontal_detection=voc,
    rotated_detection=dota,
    segmentation=maps,
    change_detection=pairs,
    pretraining=lambda root: coco(root, masks=True),
)
"""Task -> what makes its data."""


def config_of(task: str, folder: Path) -> Config:
    """Return the config of a training on small data, which are made in a folder."""
    MAKERS[task](folder / 'mine')
    request = Request([folder / 'mine'], 'vit_tiny_rvsa', 'none', task, work_dir=folder / 'run')
    cfg = Config.fromfile(own_config(request)[0])
    multispectral.adapt(cfg)
    return cfg


def save(cfg: Config, path: Path, **meta: object) -> torch.nn.Module:
    """Save a checkpoint as a training does; return the model, in evaluation mode."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtp')):
        model = MODELS.build(cfg.model)
        model.init_weights()
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    text = self_description.describe(cfg, model, dataset, [])
    meta = {self_description.KEY: text, 'dataset_meta': dataset.metainfo} | meta
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return model.eval()
