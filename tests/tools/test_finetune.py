"""Finetuning through the tools: shares of a batch, work folders, submissions."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtp.cli import launch
from mtp.cli.arguments import RunOptions
from mtp.cli.config import set_submission
from tests.tools.test_train import run_tool

REPO = Path(__file__).parents[2]
LEVIR = REPO / 'configs' / 'finetune' / 'change_detection' / 'levir' / 'vit_b_rvsa.py'
LOVEDA = REPO / 'configs' / 'finetune' / 'segmentation' / 'loveda' / 'vit_b_rvsa.py'


def load(path: Path):
    return launch.load_config(RunOptions(path))


def test_each_run_has_a_folder_of_its_own(tmp_path):
    assert load(LEVIR).work_dir == 'work_dirs/change_detection/levir/vit_b_rvsa'
    pretraining = REPO / 'configs' / 'pretrain' / 'vit_b_rvsa_samrs.py'
    assert load(pretraining).work_dir == 'work_dirs/vit_b_rvsa_samrs'
    written = tmp_path / 'resolved.py'
    load(LEVIR).dump(written)
    assert load(written).work_dir == 'work_dirs/resolved'


def test_submission_is_asked_for_where_the_labels_are_elsewhere():
    with pytest.raises(ValueError, match='this one is evaluated here'):
        set_submission(load(LEVIR), 'folder')
    with pytest.raises(ValueError, match='give --submission DIR'):
        set_submission(load(LOVEDA), None)
    cfg = load(LOVEDA)
    set_submission(cfg, 'folder')
    assert cfg.test_evaluator.out_dir == 'folder'


def test_loveda_from_training_to_the_zip(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    for folder, high in (('trainval/images', 256), ('trainval/labels', 8), ('test/images', 256)):
        (tmp_path / folder).mkdir(parents=True)
        for name in ('7', '8'):
            shape = (80, 80) if folder.endswith('labels') else (80, 80, 3)
            cv2.imwrite(
                str(tmp_path / folder / f'{name}.png'), rng.integers(0, high, shape, dtype=np.uint8)
            )
    loaders = [
        f'{loader}_dataloader.{option}'
        for loader in ('train', 'test')
        for option in (f'dataset.data_root={tmp_path}', 'num_workers=0', 'persistent_workers=False')
    ]
    run_tool(
        monkeypatch,
        'train',
        str(LOVEDA),
        '--work-dir',
        str(tmp_path / 'run'),
        '--cfg-options',
        *loaders,
        'model.backbone.name=vit_tiny_rvsa',
        'model.backbone.init_cfg=None',
        'model.backbone.img_size=64',
        'model.decode_head.in_channels=[128,128,128,128]',
        'model.decode_head.channels=8',
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'total_batch_size=2',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'train_cfg.max_iters=2',
        'model.test_cfg.crop_size=(64,64)',
        'model.test_cfg.stride=(48,48)',
        'param_scheduler.0.end=1',
        'param_scheduler.1.begin=1',
        'experiment_name=loveda1',
    )
    run = tmp_path / 'run'
    run_tool(
        monkeypatch,
        'test',
        str(run / 'vit_b_rvsa.py'),
        str(run / 'iter_2.pth'),
        '--work-dir',
        str(tmp_path / 'test'),
        '--submission',
        str(tmp_path / 'sent'),
        '--cfg-options',
        'experiment_name=loveda2',
    )
    with zipfile.ZipFile(tmp_path / 'sent' / 'loveda.zip') as archive:
        assert archive.namelist() == ['7.png', '8.png']
        labels = cv2.imdecode(np.frombuffer(archive.read('7.png'), np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (80, 80) and labels.max() < 7
