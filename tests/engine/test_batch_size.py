"""The images of a step are the recipe's, whatever the processes and what a GPU holds."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mtp.cli import launch
from mtp.cli.arguments import RunOptions
from mtp.engine.batch_size import share_batch

CONFIGS = Path(__file__).parents[2] / 'configs'
SAMRS = CONFIGS / 'pretrain/vit_b_rvsa_samrs.py'
LEVIR = CONFIGS / 'finetune/change_detection/levir/vit_b_rvsa.py'
DOTA = CONFIGS / 'finetune/rotated_detection/dota_v1/vit_b_rvsa.py'


def load(path: Path, **options) -> Config:
    return launch.load_config(RunOptions(path, cfg_options=options))


def divide(cfg: Config, processes: int) -> tuple:
    """Images of each data set in a batch, images of a batch, batches of an update."""
    share_batch(cfg, processes)
    loader = cfg.train_dataloader
    return (
        loader.sampler.get('images_per_dataset'),
        loader.batch_size,
        cfg.train_cfg.get('accumulation', 1),
    )


def each(number: int) -> dict[str, int]:
    return dict.fromkeys(('sota', 'sior', 'fast'), number)


@pytest.mark.parametrize(
    ('processes', 'most', 'expected'),
    [
        (32, 12, (each(1), 3, 1)),
        (8, 12, (each(4), 12, 1)),
        (1, 12, (each(4), 12, 8)),
        (1, None, (each(32), 96, 1)),
        (2, 10, (each(2), 6, 8)),
    ],
)
def test_pretraining(processes, most, expected):
    assert divide(load(SAMRS, images_per_gpu=most), processes) == expected


@pytest.mark.parametrize(
    ('path', 'processes', 'options', 'expected'),
    [
        (LEVIR, 1, {}, (None, 32, 1)),
        (LEVIR, 8, {}, (None, 4, 1)),
        (LEVIR, 1, dict(total_batch_size=6, images_per_gpu=2), (None, 2, 3)),
        (DOTA, 4, {}, (None, 1, 1)),
    ],
)
def test_finetuning(path, processes, options, expected):
    assert divide(load(path, **options), processes) == expected


def test_data_sets_of_different_shares():
    cfg = load(SAMRS)
    cfg.total_batch_size, cfg.images_per_gpu = dict(sota=4, sior=4, fast=16), 6
    assert divide(cfg, 2) == (dict(sota=1, sior=1, fast=4), 6, 2)


def test_a_config_that_a_run_has_written_is_divided_anew(tmp_path):
    cfg = load(SAMRS)
    share_batch(cfg, 1)
    cfg.dump(tmp_path / 'written.py')
    assert divide(load(tmp_path / 'written.py'), 32) == (each(1), 3, 1)


@pytest.mark.parametrize(
    ('path', 'processes', 'options', 'message'),
    [
        (
            SAMRS,
            5,
            {},
            'by 5 processes: start 1, 2, 4, 8, 16 or 32, or .* total_batch_size=90 or 105',
        ),
        (SAMRS, 64, {}, '96 images a step, 32 of sota, .* by 64 processes: .*total_batch_size=192'),
        (DOTA, 8, {}, '4 images a step cannot .* by 8 processes: start 1, 2 or 4, or .*_size=8$'),
        (SAMRS, 1, dict(images_per_gpu=2), 'give at least 3'),
        (LEVIR, 1, dict(images_per_gpu=0), '1 of the data set; give at least 1'),
        (
            SAMRS,
            1,
            dict(total_batch_size=0),
            'a whole number of at least 1, or one for each of sota',
        ),
        (LEVIR, 1, dict(total_batch_size=-4), 'total_batch_size=-4: give a whole number'),
        (LEVIR, 1, dict(total_batch_size=6.4), 'total_batch_size=6.4: give a whole number'),
        (SAMRS, 1, dict(total_batch_size=100), 'the 3 data sets sota, sior, fast'),
        (SAMRS, 1, dict(total_batch_size=dict(sota=3)), 'for each of sota, sior, fast'),
    ],
)
def test_what_cannot_be_divided_is_refused_with_numbers_that_can(path, processes, options, message):
    cfg = load(path)
    for key, value in options.items():
        cfg[key] = value
    with pytest.raises(ValueError, match=message):
        share_batch(cfg, processes)


def test_shares_that_differ_keep_their_ratio_in_what_is_advised():
    cfg = load(SAMRS)
    cfg.total_batch_size = dict(sota=4, sior=2, fast=4)
    with pytest.raises(ValueError, match='by 3 processes') as error:
        share_batch(cfg, 3)
    advised = str(error.value).split('--cfg-options ')[1].split()
    assert advised == [
        'total_batch_size.sota=6',
        'total_batch_size.sior=3',
        'total_batch_size.fast=6',
    ]
    cfg.merge_from_dict({key: int(value) for key, value in (pair.split('=') for pair in advised)})
    assert divide(cfg, 3) == (dict(sota=2, sior=1, fast=2), 5, 1)


def test_options_without_effect_are_refused():
    with pytest.raises(ValueError, match='batch_size is derived .* total_batch_size'):
        share_batch(load(SAMRS), 1, ['train_dataloader.batch_size'])
    with pytest.raises(ValueError, match='images_per_dataset is derived'):
        share_batch(load(SAMRS), 1, ['train_dataloader.sampler.images_per_dataset.sota'])
    with pytest.raises(ValueError, match='this config does not have'):
        share_batch(Config(dict(images_per_gpu=2, train_dataloader={})), 1)
