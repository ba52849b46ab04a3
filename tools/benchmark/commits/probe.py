"""Run by ``compare_losses.py`` in a commit, whose checkout is the ``PYTHONPATH``.

    python tools/benchmark/commits/probe.py configs CHECKOUT TARGET.json
    python tools/benchmark/commits/probe.py small CONFIG TARGET.py

The first writes all resolved configs. The second writes a small form of one of them.
"""

import inspect
import json
import os
import sys
from pathlib import Path

from differences import flatten
from mmengine.config import Config, ConfigDict

import mtp

IMAGES = 4  # images of a step; of the whole training set where epochs are counted


def write_configs(checkout: Path, target: Path) -> None:
    """Write all resolved leaf configs as json: path below ``configs`` -> the config, flattened."""
    configs = checkout / 'configs'
    paths = sorted(
        path for kind in ('pretrain', 'finetune') for path in (configs / kind).rglob('*.py')
    )
    target.write_text(
        json.dumps(
            {
                path.relative_to(configs).as_posix(): flatten(Config.fromfile(path).to_dict())
                for path in paths
            }
        )
    )


def write_small(config: Path, target: Path) -> None:
    """Write a config that trains a tiny model for three steps, from nothing, on few images."""
    from mtp.cli import finetuning  # every commit has `shrink` there, wherever its module is

    shrink = finetuning.shrink
    cfg = Config.fromfile(config)
    if cfg.model.backbone.name in shrink.TINY:
        shrink.shrink(cfg, finetuning.SIDES[cfg.default_scope])
    cfg.model.backbone.init_cfg = None
    if 'max_epochs' in cfg.train_cfg:
        few = target.with_name(f'few_{config.parent.name}_{config.stem}')
        sets = [node for node in shrink.nodes(cfg.train_dataloader.dataset) if 'data_root' in node]
        for dataset in sets:
            keep_few(dataset, IMAGES // len(sets), few)
        shrink.shorten(cfg, num_images=IMAGES, steps=3, batch_size=IMAGES)
    else:  # each data set of a pretraining has an equal share of a step
        total = cfg.total_batch_size if cfg.default_scope == 'mtp' else IMAGES
        shrink.shorten(cfg, num_images=total, steps=3, batch_size=total)
    cfg.dump(target)


def keep_few(dataset: ConfigDict, number: int, folder: Path) -> None:
    """Restrict a data set to its first images; image pairs become links in a new folder."""
    if {'indices', 'kwargs'} & set(inspect.signature(dataset.type).parameters):
        dataset.indices = number
        return
    for part in (Path(dataset.data_root) / dataset.split).iterdir():
        links = folder / dataset.split / part.name
        links.mkdir(parents=True, exist_ok=True)
        for path in sorted(part.iterdir())[:number]:
            (links / path.name).unlink(missing_ok=True)
            (links / path.name).symlink_to(path.absolute())
    dataset.data_root = str(folder)


if __name__ == '__main__':
    if Path(mtp.__file__).parents[1] != Path(os.environ['PYTHONPATH']):
        raise SystemExit(f'error: mtp was imported from {mtp.__file__}, not from the checkout')
    what, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_stem(f'unfinished_{target.stem}')
    {'configs': write_configs, 'small': write_small}[what](source, unfinished)
    unfinished.replace(target)
