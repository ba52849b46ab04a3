"""Figures of the scenes of a tiled import, by the config that ``mtp train --data`` writes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope

from mtp.cli.config_check import check_config
from mtp.cli.own_training import Request, own_config
from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.recognition import recognise
from mtp.files import UnusableFileError
from tests.test_own_data import NUMBER, coco, dota, draw, maps, pairs


@pytest.mark.parametrize('make', [coco, dota, maps, pairs], ids=lambda make: make.__name__)
def test_a_perfect_predictor_is_perfect_on_scenes(make, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'mine')
    # of each object the left tile holds all, the right one three quarters
    import_data(
        read_data(recognise(tmp_path / 'mine')),
        tmp_path / 'tiles',
        Options(train=0.5, tile=48, overlap=32),
    )
    path, _, _ = own_config(Request([Path('tiles')], 'vit_tiny_rvsa', 'none'))
    cfg = Config.fromfile(path)
    check_config(cfg)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dataset.metainfo
    for number in range(len(dataset)):
        sample = dataset[number]['data_samples']
        if make in (coco, dota):
            truth = sample.gt_instances
            scores = torch.full((len(truth),), 0.9)
            found = dict(bboxes=truth.bboxes, labels=truth.labels, scores=scores)
            metric.process(None, [dict(sample.to_dict(), pred_instances=found)])
        else:
            metric.process(None, [dict(sample.to_dict(), pred_sem_seg=sample.gt_sem_seg.to_dict())])
    figures = metric.evaluate(len(dataset))
    if make in (coco, dota):
        with pytest.raises(
            UnusableFileError, match='classes car, plane, but the data set has plane'
        ):
            metric.dataset_meta = dict(classes=('plane', 'car'))
    scenes = json.loads((tmp_path / 'tiles/scenes/val.json').read_text())['scenes']
    assert len(scenes) == NUMBER // 2 and len(dataset) == 4 * len(scenes)
    key = {coco: 'coco/bbox_mAP', dota: 'dota/mAP', maps: 'mIoU', pairs: 'mIoU'}[make]
    assert figures[f'scene/{key}'] == (1 if make in (coco, dota) else 100)


def test_a_block_of_a_scene_is_judged_by_the_objects_in_it(tmp_path) -> None:
    draw(tmp_path / 'one/images/scene.png')
    (tmp_path / 'one/labelTxt').mkdir()
    boxes = [(2, 9), (28, 42), (50, 60)]  # training is to 32, validation from 48 on
    lines = [f'{a} 2 {b} 2 {b} 9 {a} 9 car 0\n' for a, b in boxes]
    lines.append('44 20 53 20 53 29 44 29 car 0\n')  # five of nine columns in the validation block
    (tmp_path / 'one/labelTxt/scene.txt').write_text(''.join(lines))
    data = read_data(recognise(tmp_path / 'one'))
    import_data(data, tmp_path / 'blocks', Options(train=0.6, tile=16))
    (scene,) = json.loads((tmp_path / 'blocks/scenes/val.json').read_text())['scenes']
    assert [(each['corners'][0], each['ignored']) for each in scene['objects']] == [
        (50, False),
        (44, True),
    ]
    assert all(x >= 48 for x, _, _ in scene['tiles'])


def test_a_tile_larger_than_its_change_map_is_ignored_beyond_it(tmp_path) -> None:
    pairs(tmp_path / 'mine')
    data = read_data(recognise(tmp_path / 'mine'))
    import_data(data, tmp_path / 'tiles', Options(train=0.5, tile=80))
    (path, *_) = sorted((tmp_path / 'tiles/val/label').iterdir())
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    # classes in place of the stored 0 and 255, so that 255 means ignored
    assert label.shape == (80, 80) and (label[:64, :64] == np.eye(64)).all()
    assert (label[64:] == 255).all() and (label[:, 64:] == 255).all()
