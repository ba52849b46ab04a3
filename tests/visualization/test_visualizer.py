"""What is drawn where."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures import RotatedBoxes

from mtp import painting
from mtp.engine.hooks.draw_predictions import DrawPredictionsHook
from mtp.sample_fields import label_table
from mtp.visualization import draw_sample
from mtp.visualization.choice import choose_images
from mtp.visualization.visualizer import CAPTION, MARGIN, _certain

RED, BLUE = (255, 0, 0), (0, 0, 255)
META = dict(classes=('plane', 'ship'), palette=[RED, BLUE])
SIZE = 128


def make_sample(angle=0.0, scores=(0.9, 0.8)):
    """A plane (upper left) and a ship (lower right)."""
    boxes = torch.tensor([[20.0, 30, 50, 60], [70, 80, 110, 100]])
    rotated = RotatedBoxes(torch.tensor([[35.0, 45, 30, 30, 0], [90, 90, 40, 20, angle]]))
    labels, scores = torch.tensor([0, 1]), torch.tensor(scores)
    masks = np.zeros((2, SIZE, SIZE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    seg_map = torch.from_numpy(masks[0] + 2 * masks[1]).long()[None]
    sample = DetDataSample(metainfo=dict(dataset='sota'))
    sample.gt_sem_seg = PixelData(sem_seg=seg_map)
    sample.pred_sem_seg = PixelData(sem_seg=seg_map.clone())
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes), labels=labels, masks=BitmapMasks(masks, SIZE, SIZE)
    )
    sample.pred_instances = InstanceData(
        bboxes=boxes, labels=labels, scores=scores, masks=torch.from_numpy(masks > 0)
    )
    sample.gt_rotated_instances = InstanceData(bboxes=rotated, labels=labels)
    sample.pred_rotated_instances = InstanceData(
        bboxes=rotated.clone(), labels=labels, scores=scores
    )
    return sample


def tiles(picture, rows=2, columns=4, size=384):
    """The picture cut into its tiles, without captions."""
    y, x = size + CAPTION, size + MARGIN
    assert picture.shape[:2] == (MARGIN + rows * y, MARGIN + columns * x)
    return [
        [
            picture[r * y + CAPTION : (r + 1) * y, MARGIN + c * x : (c + 1) * x]
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def has(tile, colour):
    return bool((tile == colour).all(-1).any())


GREY = np.full((SIZE, SIZE, 3), 128, np.uint8)


def test_each_task_in_its_column_truth_above_prediction():
    before = GREY.copy()
    sample = make_sample(scores=(0.9, 0.1))
    truth, predicted = tiles(draw_sample(GREY, sample, META))
    assert (GREY == before).all() and len(sample.pred_instances) == 2
    assert (truth[0] == 128).all()
    assert truth[1][3 * 45, 3 * 35].tolist() == pytest.approx([204, 51, 51], abs=1)
    assert truth[1][3 * 90, 3 * 90].tolist() == pytest.approx([51, 51, 204], abs=1)
    assert (truth[1] == predicted[1]).all()
    for column in (2, 3):
        assert has(truth[column], RED) and has(truth[column], BLUE)
        assert has(predicted[column], RED) and not has(predicted[column], BLUE)  # score below 0.3
    assert has(predicted[0], RED) and has(predicted[0], BLUE)  # the legend


def test_white_edge_shows_the_angle_however_the_box_is_written():
    def ship(boxes):
        sample = make_sample()
        sample.gt_rotated_instances.bboxes = RotatedBoxes(boxes)
        return tiles(draw_sample(GREY, sample, META))[0][3]

    plane = [35.0, 45, 30, 30, 0]
    level = ship(torch.tensor([plane, [90, 90, 40, 20, 0]]))
    assert level[3 * 90, 3 * 110].tolist() == [255, 255, 255]
    assert level[3 * 90, 3 * 70].tolist() == list(BLUE)
    same = ship(torch.tensor([plane, [90, 90, 20, 40, torch.pi / 2]]))
    assert (level == same).all()
    upright = ship(torch.tensor([plane, [90, 90, 40, 20, torch.pi / 2]]))
    assert (level != upright).any()


def test_missing_tasks_and_truth_are_left_out():
    sample = make_sample()
    for field in ('gt_instances', 'pred_instances', 'gt_sem_seg', 'gt_rotated_instances'):
        delattr(sample, field)
    picture = draw_sample(GREY, sample, META)
    assert picture.shape[1] == MARGIN + 3 * (384 + MARGIN)
    assert picture.shape[0] < MARGIN + 2 * (384 + CAPTION)
    sample.pred_rotated_instances = sample.pred_rotated_instances[:0]
    assert draw_sample(GREY, sample, META).shape == picture.shape


@pytest.mark.parametrize(
    ('shape', 'tile'),
    [((64, 128), (192, 384)), ((800, 600), (800, 600)), ((1024, 1024), (800, 800))],
)
def test_tiles_are_legible_and_within_bounds(shape, tile):
    sample = DetDataSample()
    sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, *shape, dtype=torch.long))
    picture = draw_sample(np.zeros((*shape, 3), np.uint8), sample, META)
    assert picture.shape[1] == MARGIN + 2 * (tile[1] + MARGIN)
    assert picture.shape[0] >= MARGIN + tile[0] + CAPTION


class Part:
    """A data set of mmengine: records of images, each with labels of objects."""

    def __init__(self, root, labels):
        self.records = [
            dict(img_path=str(root / f'{name}.png'), instances=[dict(bbox_label=i) for i in found])
            for name, found in labels.items()
        ]

    def __len__(self):
        return len(self.records)

    def get_data_info(self, index):
        return self.records[index]


def test_a_few_images_are_spread_over_classes_and_data_sets(tmp_path):
    common = {str(i): [0, 0] for i in range(40)}
    many, few = Part(tmp_path, {**common, 'rare': [0, 3]}), Part(tmp_path, dict(a=[1], b=[]))
    chosen = {Path(path).stem for path in choose_images(SimpleNamespace(datasets=[many, few]), 3)}
    assert {'rare', 'a', 'b'} < chosen and len(chosen) == 5
    maps = Part(tmp_path, {str(i): [] for i in range(40)})
    places = sorted(int(Path(path).stem) for path in choose_images(maps, 4))
    assert np.diff([0, *places, 40]).max() < 20


def test_names_are_left_off_where_objects_crowd_and_hidden_predictions_are_counted():
    row = torch.tensor([[4.0 + 5 * i, 60, 8 + 5 * i, 90] for i in range(20)])
    alone = torch.tensor([[20.0, 20, 100, 50]])

    def named(boxes, score):
        sample = DetDataSample(metainfo=dict(dataset='sota'))
        sample.pred_instances = InstanceData(
            bboxes=boxes,
            labels=torch.zeros(len(boxes), dtype=torch.long),
            scores=torch.full((len(boxes),), score),
        )
        with mock.patch('mtp.painting.write', wraps=painting.write) as write:
            tile = np.zeros((384, 384, 3), np.uint8)
            label_table()['instance'].draw(tile, sample.pred_instances, 3, META)
        return write.call_count

    assert named(alone, 0.9) == 1 and named(row, 0.9) < 7
    sample = make_sample(scores=(0.9, 0.1))
    assert (
        _certain(sample.pred_instances, 0.3, 'prediction')[1] == 'prediction, 1 shown, 1 below 0.3'
    )


def test_colours_of_any_list_of_classes_can_be_told_apart():
    for number in (1, 3, 37, 100):
        meta = dict(classes=range(number), palette=[(0, 0, 255)] * number)
        colours = [painting.colour_of(meta, label) for label in range(number)]
        assert painting._least_distance(colours) > 15
    assert painting.colour_of(META, 1) == BLUE, "the data set's own"


def test_hook_writes_whole_pictures(tmp_path):
    for name in ('sota', 'sior'):
        (tmp_path / name).mkdir()
        image = np.full((SIZE, SIZE, 3), (10, 20, 200), np.uint8)
        cv2.imwrite(str(tmp_path / name / 'a.png'), image)
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(
            dataset=SimpleNamespace(
                metainfo={'datasets': {'sota': META, 'sior': META}},
                datasets=[
                    Part(tmp_path / 'sota', dict(a=[0], b=[0])),
                    Part(tmp_path / 'sior', dict(a=[0])),
                ],
            )
        )
    )
    samples = []
    for dataset, stem in (('sota', 'a'), ('sota', 'b'), ('sior', 'a')):
        samples.append(make_sample())
        samples[-1].set_metainfo(
            dict(dataset=dataset, img_path=str(tmp_path / dataset / f'{stem}.png'))
        )

    def run(**options):
        hook = DrawPredictionsHook(**options)
        hook.before_test(runner)
        hook.after_test_iter(runner, 0, None, samples)

    run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['sior', 'sota']
    out = tmp_path / 'new' / 'out'
    run(out_dir=str(out), max_images=1)
    assert sorted(path.name for path in out.iterdir()) == ['sior_a.png', 'sota_a.png']
    picture = cv2.imread(str(out / 'sota_a.png'))
    assert picture[CAPTION + 100, MARGIN + 5].tolist() == [10, 20, 200]
