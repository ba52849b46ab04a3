"""The configs for one's own data in docs/finetuning.md, on data as they describe it."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope

from mtp.cli.config_check import check_config
from mtp.cli.finetuning import SIDES
from mtp.recipes.shrink import shrink
from tests.conftest import REPO
from tests.tools.test_train import run_tool

SNIPPETS = dict(
    re.findall(
        r'```python\n# (\w+)\n(.+?)```', (REPO / 'docs' / 'finetuning.md').read_text(), re.DOTALL
    )
)
# task -> where the model has its number of classes, folders of images, folders of labels
TASKS = {
    'classification': ('head', ['train/a', 'train/b', 'val/a', 'val/b'], []),
    'horizontal_detection': ('roi_head.bbox_head', ['train', 'val'], []),
    'rotated_detection': ('roi_head.bbox_head', ['train/images', 'val/images'], []),
    'segmentation': ('decode_head', ['train/images', 'val/images'], ['train/labels', 'val/labels']),
    'change_detection': (
        'decode_head',
        [f'{split}/{date}' for split in ('train', 'val', 'test') for date in 'AB'],
        [f'{split}/label' for split in ('train', 'val', 'test')],
    ),
}


FIGURES = {
    'classification': ('accuracy/top1',),
    'horizontal_detection': ('coco/bbox_mAP', 'coco/bbox_mAP_50'),
    'rotated_detection': ('dota/mAP', 'dota/AP50'),
    'segmentation': ('mIoU', 'water/IoU'),
    'change_detection': ('mIoU', 'changed/F1'),
}


def make(root, task):
    """Two images of each split, with labels."""
    _, folders, labels = TASKS[task]
    for folder in folders + labels:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in ('1', '2'):
            image = np.full((300, 300, 3), 90, np.uint8)
            if folder in labels:
                image = np.zeros((300, 300), np.uint8)
                image[100:, 50:200] = 255 if task == 'change_detection' else 2
            cv2.imwrite(str(root / folder / f'{name}.png'), image)
    for split in ('train', 'val'):
        if task == 'rotated_detection':
            (root / split / 'labels').mkdir()
            for name in ('1', '2'):
                (root / split / 'labels' / f'{name}.txt').write_text(
                    '10 10 60 10 60 40 10 40 car 0\n100 100 200 100 200 200 100 200 plane 0\n'
                )
        (root / f'{split}.json').write_text(
            json.dumps(
                dict(
                    images=[
                        dict(id=i, file_name=f'{i}.png', height=300, width=300) for i in (1, 2)
                    ],
                    annotations=[
                        dict(
                            id=i,
                            image_id=i,
                            category_id=i,
                            iscrowd=0,
                            area=1500,
                            bbox=[10, 10, 50, 30],
                        )
                        for i in (1, 2)
                    ],
                    categories=[dict(id=1, name='plane'), dict(id=2, name='car')],
                )
            )
        )


def test_a_config_for_each_task():
    assert set(SNIPPETS) == set(TASKS)


@pytest.mark.parametrize('task', TASKS)
def test_config(task, tmp_path, monkeypatch):
    configs = tmp_path / 'configs'
    shutil.copytree(REPO / 'configs' / '_base_', configs / '_base_')
    path = configs / 'finetune' / task / 'mine' / 'vit_b_rvsa.py'
    path.parent.mkdir(parents=True)
    path.write_text(SNIPPETS[task])
    make(tmp_path / 'data' / 'mine', task)
    monkeypatch.chdir(tmp_path)

    cfg = Config.fromfile(path)
    check_config(cfg)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    head = model
    for part in TASKS[task][0].split('.'):
        head = getattr(head, part)
    for name in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{name}_dataloader'].dataset)
        assert len(dataset) == (4 if task == 'classification' else 2)
        sample = dataset[0]['data_samples']
        assert len(dataset.metainfo['classes']) == head.num_classes
        if 'detection' in task and task != 'change_detection':
            assert len(sample.gt_instances) == (2 if task == 'rotated_detection' else 1)
        elif task != 'classification':
            assert set(np.unique(sample.gt_sem_seg.data)) <= {0, 1, 2, 255}
    METRICS.build(cfg.val_evaluator)

    shrink(cfg, SIDES[cfg.default_scope])
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.dump('small.py')
    run_tool(monkeypatch, 'test', 'small.py', 'untrained', '--show-dir', 'pictures')
    metrics = json.loads(Path('work_dirs/small/metrics.json').read_text())
    assert set(FIGURES[task]) <= set(metrics)
    assert len(list(Path('pictures').iterdir())) == (4 if task == 'classification' else 2)
