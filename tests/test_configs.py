"""Every shipped config: complete, consistent, and the same after it has been written out."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mtp.cli.config_check import check_config
from mtp.data import SUBSETS
from mtp.engine.batch_size import share_batch
from mtp.registry import MODELS

CONFIGS = sorted((Path(__file__).parents[1] / 'configs' / 'pretrain').glob('*.py'))


def build(model: dict) -> torch.nn.Module:
    with torch.device('meta'):
        return MODELS.build(model)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config(path, tmp_path):
    cfg = Config.fromfile(path)
    check_config(cfg)
    model = build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert sum(len(group['params']) for group in groups) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )

    # the data sets of the loaders are those that the model was built for
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        found = {
            dataset.get('name', dataset.subset): len(
                dataset.get('classes', SUBSETS[dataset.subset].classes)
            )
            for dataset in loader.dataset.datasets
        }
        assert found == {name: dataset['num_classes'] for name, dataset in model.datasets.items()}
    share_batch(cfg, 1)
    per_dataset = cfg.train_dataloader.sampler.images_per_dataset
    assert set(per_dataset) == set(model.datasets)
    assert (
        cfg.param_scheduler[-1].T_max + cfg.param_scheduler[-1].get('begin', 0)
        == cfg.train_cfg.max_iters
    )

    # a run writes its config beside its results: it must give the same model
    cfg.dump(tmp_path / 'dumped.py')
    again = build(Config.fromfile(tmp_path / 'dumped.py').model)
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ('name', 'layers', 'lr', 'decay', 'drop_path'),
    [
        ('vit_b_rvsa', 12, 6e-5, 0.9, 0.1),
        ('vit_l_rvsa', 24, 6e-5, 0.9, 0.1),
        ('internimage_xl', 39, 2e-5, 0.94, 0.2),
    ],
)
def test_recipe_of_the_paper(name, layers, lr, decay, drop_path):
    cfg = Config.fromfile(CONFIGS[0].with_name(f'{name}_samrs.py'))
    assert build(cfg.model).backbone.num_layers == layers
    assert cfg.model.backbone.drop_path_rate == drop_path and cfg.train_cfg.max_iters == 80_000
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas) == (lr, 0.05, (0.9, 0.999))
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == decay
    crop = cfg.train_dataloader.dataset.datasets[0].pipeline[0]
    assert (crop.size, crop.ratio_range) == (448, (0.5, 2.0))
