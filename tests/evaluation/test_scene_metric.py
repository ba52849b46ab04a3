"""Figures of scenes put together from tiles, against numbers that were computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mtp.data.prepare.tiling import Tiling
from mtp.evaluation.cut_scenes import Scene, stands_for
from mtp.files import UnusableFileError
from mtp.registry import METRICS

# A scene of 32 x 48 pixels in two tiles that share the columns 16 to 31.
TILES = [[0, 0, 32], [16, 0, 32]]
A, B = (18, 4, 28, 12), (8, 20, 28, 28)  # both tiles show A; the right one 0.6 of B


def metric(tmp_path: Path, kind: str, inner: str, **objects: list):
    scene = dict(name='s', height=32, width=48, tiles=TILES, **objects)
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(dict(scenes=[scene])))
    init_default_scope('mtp')
    made = METRICS.build(dict(type=kind, metric=dict(type=inner), scenes=str(path)))
    made.dataset_meta = dict(classes=('background', 'car')[2 - (2 if kind == 'SceneMaps' else 1) :])
    return made


def corners(box: tuple[int, ...]) -> list[int]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def tensor(boxes: list[tuple], rotated: bool) -> torch.Tensor:
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    if not rotated:
        return table
    sizes = table[:, 2:] - table[:, :2]
    return torch.cat([table[:, :2] + sizes / 2, sizes, torch.zeros(len(table), 1)], 1)


def tile(number: int, truth: list[tuple], found: list[tuple], rotated: bool) -> dict:
    """Sample of a tile; ``found`` has box and score."""
    x, y, side = TILES[number]
    boxes = tensor([box for box, _ in found], rotated)
    labels = torch.zeros(len(found), dtype=torch.long)
    scores = torch.tensor([score for _, score in found])
    true = dict(bboxes=tensor(truth, rotated), labels=torch.zeros(len(truth), dtype=torch.long))
    none = dict(bboxes=tensor([], rotated), labels=torch.zeros(0, dtype=torch.long))
    return dict(
        img_id=number,
        img_path=f'data/val/images/s__{side}__{x}___{y}.png',
        pred_instances=dict(bboxes=boxes, scores=scores, labels=labels),
        gt_instances=true,
        ignored_instances=none,
        instances=[dict(bbox=box, bbox_label=0, area=80, ignore_flag=0) for box in truth],
    )


def shifted(box: tuple[int, ...]) -> tuple[int, ...]:
    return box[0] - 16, box[1], box[2] - 16, box[3]


PART = (0, 20, 12, 28)  # of B, in the right tile
EVERYTHING = ([(A, 0.5), (B, 0.9)], [(shifted(A), 0.5), (PART, 0.8)])
# A is found nowhere, and something else is, in the column that both show
ERRORS = ([((20, 14, 30, 18), 0.95), (B, 0.9)], [((4, 14, 14, 18), 0.95), (PART, 0.8)])


@pytest.mark.parametrize(
    'rotated, found, of_tiles, of_scene',
    [
        # B 1/1, its part 1/2, A and A again 3/4 at recall 1; 34 of COCO's 101 recalls are to 1/3
        (False, EVERYTHING, (34 + 67 * 0.75) / 101, 1.0),
        # 2 wrong, B, of 3 objects; once wrong, B, of 2 objects
        (False, ERRORS, 34 / 3 / 101, 51 / 2 / 101),
        # the same curve at 11 recalls
        (True, EVERYTHING, (4 + 7 * 0.75) / 11, 1.0),
        (True, ERRORS, 4 / 3 / 11, 0.273),
    ],
)
def test_objects_count_once_and_uncut(tmp_path, rotated, found, of_tiles, of_scene) -> None:
    objects = [dict(label=0, corners=corners(box), ignored=False) for box in (A, B)]
    inner = 'RotatedMetric' if rotated else 'DetectionMetric'
    made = metric(tmp_path, 'SceneDetections', inner, objects=objects)
    made.process(None, [tile(0, [A, B], found[0], rotated)])
    made.process(None, [tile(1, [shifted(A)], found[1], rotated)])
    figures = made.evaluate(2)
    key = 'dota/AP50' if rotated else 'coco/bbox_mAP_50'
    assert figures[key] == pytest.approx(of_tiles, abs=6e-4)  # rotated ones are rounded
    assert figures[f'scene/{key}'] == pytest.approx(of_scene, abs=1e-9)
    # all tiles' keys stand under the prefix too
    assert {f'scene/{key}' for key in figures if not key.startswith('scene/')} <= figures.keys()
    assert not made.results and not made.whole.results


def test_ignored_objects_are_neither_missed_nor_found(tmp_path) -> None:
    objects = [dict(label=0, corners=corners(box), ignored=box is A) for box in (A, B)]
    made = metric(tmp_path, 'SceneDetections', 'DetectionMetric', objects=objects)
    made.process(None, [tile(0, [A, B], [(A, 0.95), (B, 0.9)], False)])
    made.process(None, [tile(1, [shifted(A)], [], False)])
    assert made.evaluate(2)['scene/coco/bbox_mAP'] == 1


def test_a_scene_may_hold_more_objects_than_coco_counts(tmp_path) -> None:
    boxes = [(x, y, x + 2, y + 2) for x in range(0, 32, 3) for y in range(0, 32, 3)]
    objects = [dict(label=0, corners=corners(box), ignored=False) for box in boxes]
    made = metric(tmp_path, 'SceneDetections', 'DetectionMetric', objects=objects)
    made.process(None, [tile(0, boxes, [(box, 0.9) for box in boxes], False)])
    figures = made.evaluate(2)
    assert figures['scene/coco/bbox_mAP'] == 1 > figures['coco/bbox_mAP'] and len(boxes) > 100


@pytest.mark.parametrize('inner', ['SegmentationMetric', 'ChangeMetric'])
def test_a_pixel_counts_in_the_tile_whose_edge_is_farthest(tmp_path, inner) -> None:
    made = metric(tmp_path, 'SceneMaps', inner)
    true = torch.zeros(1, 32, 48, dtype=torch.long)
    true[:, :16] = 1
    for number, wrong in enumerate(((24, 32), (24, 28))):  # columns of the tile
        x, y, side = TILES[number]
        part = true[:, :, x : x + side].clone()
        found = part.clone()
        found[..., slice(*wrong)] = 1 - found[..., slice(*wrong)]
        name = f'data/val/images/s__{side}__{x}___{y}.png'
        sample = dict(img_path=name, gt_sem_seg=dict(data=part), pred_sem_seg=dict(data=found))
        made.process(None, [sample])
    figures = made.evaluate(2)
    key, unit = ('aAcc', 5e-3) if inner == 'SegmentationMetric' else ('accuracy', 1e-9)
    assert figures[key] == pytest.approx(100 * (1 - 12 / 64), abs=unit)
    # the left tile is wrong only where the right one's edge is farther
    assert figures[f'scene/{key}'] == pytest.approx(100 * (1 - 4 / 48), abs=unit)


def test_each_pixel_of_a_scene_has_one_tile() -> None:
    for size, side, overlap in (((70, 90), 32, 10), ((20, 90), 32, 16), ((64, 64), 64, 0)):
        tiles = Tiling(side, overlap).windows(*size)
        none = np.zeros(0)
        scene = Scene(size, tiles, none, none, none, none)
        count = np.zeros((size[0] + side, size[1] + side), int)
        for number, (x, y, _) in enumerate(tiles):
            count[y : y + side, x : x + side] += stands_for(scene, number)
        assert (count[: size[0], : size[1]] == 1).all() and count.sum() == size[0] * size[1]


def test_tiles_that_are_missing_or_foreign_are_said(tmp_path, warnings) -> None:
    objects = [dict(label=0, corners=corners(box), ignored=False) for box in (A, B)]
    made = metric(tmp_path, 'SceneDetections', 'DetectionMetric', objects=objects)
    made.process(None, [tile(0, [A, B], [(B, 0.9)], False)])
    assert made.evaluate(1)['scene/coco/bbox_mAP'] == pytest.approx(51 / 101)
    assert any('1 of 2 tiles' in text for text in warnings)
    with pytest.raises(UnusableFileError, match='other.png is no tile'):
        made.process(None, [dict(tile(0, [], [], False), img_path='other.png')])
    with pytest.raises(FileNotFoundError, match='mtp data import --tile'):
        METRICS.build(dict(type='SceneMaps', metric=dict(type='ChangeMetric'), scenes='no.json'))
