"""Data and small configs of what `faults.py` trains: pretraining, and a recipe of each library."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from campaign.plan import RECIPES
from mtp import resources
from mtp.cli import finetuning
from mtp.data.samrs.synthesis import make_samrs
from mtp.recipes import shrink, table
from mtp.registry import DATASETS

TOOLS = Path(__file__).parents[2]
STEPS, EVERY = 10, 2  # length of a run, and steps between two checkpoints
PAUSE = 0.6  # longest time between a step and the kill after it, seconds
BATCHES = {'pretraining': 6, 'mmpretrain': 12}  # images a step; 4 in the others
EMA = dict(type='EMAHook', ema_type='mtp.engine.FastEMA', momentum=0.1)


def make(recipe: str, folder: Path) -> Path:
    """Make the data and the config of a recipe below a folder, unless they exist.

    Args:
        recipe: a key of :data:`campaign.plan.RECIPES`.
        folder: folder of the recipe.

    Returns:
        Path: the config. The data are in ``data`` beside it.
    """
    config = folder / 'small.py'
    if config.is_file():
        return config
    dataset, data = RECIPES[recipe], folder / 'data'
    if dataset is None:
        if not data.is_dir():
            make_samrs(data, 8, 2, 128, 0)
        source = resources.configs() / 'pretrain' / 'vit_tiny_rvsa_demo.py'
    else:
        log = folder / 'log.txt'
        if not data.is_dir():
            publisher = folder / 'publisher'
            for script, *arguments in (
                ('make_synthetic.py', publisher, '--dataset', dataset),
                ('prepare.py', dataset, publisher, data),
            ):
                finetuning.step(log, finetuning.tool, TOOLS / 'data' / script, *arguments)
        source = table.config_of(dataset, 'vit_b_rvsa')
    finetuning.step(folder / 'log.txt', _write, recipe, source, data, config)
    return config


def _write(recipe: str, source: Path, data: Path, target: Path) -> None:
    cfg, batch = Config.fromfile(source), BATCHES.get(recipe, 4)
    if recipe == 'pretraining':
        for node in table.nodes(cfg._cfg_dict):
            if 'data_root' in node:
                node['data_root'] = str(data / Path(node['data_root']).name)
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.train_cfg.max_iters = STEPS
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 2
        cfg.param_scheduler[1].T_max = STEPS - 2
    else:
        table.set_data_root(cfg, data)
        shrink.shrink(cfg, finetuning.SIDES[cfg.default_scope])
        init_default_scope(cfg.default_scope)
        images = len(DATASETS.build(cfg.train_dataloader.dataset))
        shrink.shorten(cfg, images, STEPS, batch)
    cfg.total_batch_size = batch
    for split in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'{split}_{part}'] = None
    cfg.default_hooks.checkpoint = dict(
        type='mtp.engine.VerifiedCheckpointHook', interval=EVERY, by_epoch=False, max_keep_ckpts=2
    )
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pop('export_encoder', None)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.custom_hooks = [EMA]
    cfg.dump(target)
