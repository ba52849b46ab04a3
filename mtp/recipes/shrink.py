"""Small versions of finetuning recipes, which a CPU runs in seconds to check that all fits."""

import math
from typing import Any

import torch
from mmengine.config import Config

from mtp.models import build_backbone
from mtp.recipes.table import nodes

SIZES_OF_INTERNIMAGE = ('pico', 't', 's', 'b', 'l', 'xl')
# Model of a config -> arguments of the smallest model of its family.
TINY: dict[str, dict[str, Any]] = {
    **dict.fromkeys(('vit_b_rvsa', 'vit_l_rvsa', 'vit_tiny_rvsa'), dict(name='vit_tiny_rvsa')),
    **dict.fromkeys(('vit_b', 'vit_l'), dict(name='vit_tiny_rvsa', interval=1)),
    **{f'internimage_{size}': dict(name='internimage_pico') for size in SIZES_OF_INTERNIMAGE},
}
# Setting of a decoder -> its value in the recipes -> its small value.
SMALL: dict[str, dict[Any, Any]] = {
    'channels': {512: 32},
    'decoder_channels': {(512, 256, 128, 64): (32, 32, 16, 16)},
    'fc_out_channels': {1024: 64},
    'num': {256: 64, 512: 64},
    'score_thr': {0.05: 0.01},  # so that a barely trained model finds something
    **dict.fromkeys(('in_channels', 'out_channels', 'feat_channels'), {256: 32}),
    **dict.fromkeys(('nms_pre', 'max_per_img'), {1000: 200, 2000: 200}),
}
SIZES = ('scale', 'crop_size', 'size', 'stride')


def shrink(cfg: Config, side: int) -> None:
    """Make the model and its images small: a tiny untrained backbone and narrow decoders.

    Args:
        cfg: finetuning config, changed in place.
        side: side of the model's input images in pixels; other sizes shrink in proportion.
    """
    model = cfg.model
    ratio = side / model.backbone.img_size
    for node in nodes(model):
        for key, small in SMALL.items():
            value = node.get(key)
            if isinstance(value, int | float | tuple) and value in small:
                node[key] = small[value]

    tiny = TINY[model.backbone.name]
    with torch.device('meta'):
        channels = list(build_backbone(tiny['name']).out_channels)
    model.backbone.update(tiny, img_size=side, init_cfg=None, drop_path_rate=0.0)
    for part in ('neck', 'decode_head'):
        if 'in_channels' in model.get(part, {}):
            model[part].in_channels = channels
    if 'head' in model:
        model.head.in_channels = channels[-1]

    sized = [model.data_preprocessor, model.get('test_cfg', {})]
    for loader in _loaders(cfg):
        for node in nodes(loader):
            sized += nodes(node.get('pipeline', []))
    for node in {id(node): node for node in sized}.values():
        node.update({key: _times(node[key], ratio) for key in SIZES if key in node})


def shorten(cfg: Config, num_images: int, steps: int, batch_size: int = 4) -> None:
    """Make the schedule short, with the same shape and a learning rate for a tiny model.

    The warm-up takes two epochs or steps; then the rate decays as in the recipe. Each step is
    logged, the model is evaluated once at the end, and no loader uses worker processes.

    Args:
        cfg: finetuning config, changed in place.
        num_images: number of training images.
        steps: minimum number of steps; rounded up to full epochs if the schedule counts epochs, at
            least three if the warm-up does so too.
        batch_size: number of images per step.
    """
    cfg.total_batch_size = min(batch_size, num_images)
    for loader in _loaders(cfg):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.optim_wrapper.optimizer.lr = 1e-3
    cfg.default_hooks.logger.interval = 1

    warm, fall = cfg.param_scheduler
    warm.end = 2
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.max_iters = length = steps
    else:
        per_epoch = math.ceil(num_images / cfg.total_batch_size)
        length = max(3 if warm.by_epoch else 2, math.ceil(steps / per_epoch))
        cfg.train_cfg.max_epochs = length
    cfg.train_cfg.val_interval = cfg.default_hooks.checkpoint.interval = length
    if 'milestones' in fall:
        fall.milestones = [length - 1]
    else:
        fall.update(begin=warm.end, T_max=length - warm.end)


def _loaders(cfg: Config) -> list[dict]:
    names = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    return [cfg[name] for name in names if cfg.get(name)]


def _times(value: Any, ratio: float) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_times(part, ratio) for part in value)
    return max(1, round(value * ratio))
