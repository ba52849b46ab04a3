"""Figures against hand-made values, the libraries' own evaluation, and several processes."""

import contextlib
import io
import json
import math
import multiprocessing.dummy
import os

import mtp  # noqa: F401  isort: skip  (a spawned process has no conftest to set up OpenMMLab)
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmrotate.evaluation.functional import mean_ap
from mmrotate.structures import RotatedBoxes
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtp.evaluation import MultiTaskMetric
from mtp.files import UnusableFileError
from tests.distributed import run_processes

TASKS = ('semantic', 'instance', 'rotated')
SIZE = 64
CLASSES = ('plane', 'ship', 'harbor')
FIGURES = (
    'semantic/mIoU',
    'semantic/mIoU_without_background',
    'instance/bbox_mAP',
    'instance/segm_mAP',
    'rotated/mAP',
    'rotated/mAP_75',
)
OF_A_CLASS = (
    'semantic/{}/IoU',
    'instance/{}/bbox_AP',
    'instance/{}/segm_AP',
    'rotated/{}/AP50',
    'rotated/{}/AP75',
)


def make_metric(**tasks):
    metric = MultiTaskMetric()
    metric.dataset_meta = {
        'datasets': {
            name: dict(name=name, classes=CLASSES, tasks=tasks_of)
            for name, tasks_of in (tasks or {'sota': TASKS}).items()
        }
    }
    return metric


def instances(boxes, labels, cls=HorizontalBoxes, **fields):
    boxes = cls(torch.tensor(boxes, dtype=torch.float32).reshape(-1, cls.box_dim))
    return InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long), **fields)


def make_sample(boxes, labels, img_id=0, dataset='sota', tasks=TASKS):
    """An image with upright objects, and predictions equal to the truth."""
    sample = DetDataSample(
        metainfo=dict(
            dataset=dataset, img_id=img_id, img_path=f'{img_id}.png', ori_shape=(SIZE, SIZE)
        )
    )
    seg = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    masks = np.zeros((len(boxes), SIZE, SIZE), np.uint8)
    for (x1, y1, x2, y2), label, mask in zip(boxes, labels, masks):
        mask[y1:y2, x1:x2] = 1
        seg[:, y1:y2, x1:x2] = label + 1
    scores = torch.linspace(0.9, 0.5, len(boxes))
    rotated = [[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0] for x1, y1, x2, y2 in boxes]
    if 'semantic' in tasks:
        sample.gt_sem_seg = PixelData(sem_seg=seg)
        sample.pred_sem_seg = PixelData(sem_seg=seg.clone())
    if 'instance' in tasks:
        sample.gt_instances = instances(boxes, labels, masks=BitmapMasks(masks, SIZE, SIZE))
        sample.pred_instances = instances(
            boxes, labels, scores=scores, masks=torch.from_numpy(masks > 0)
        )
        sample.pred_instances.bboxes = sample.pred_instances.bboxes.tensor
    if 'rotated' in tasks:
        sample.gt_rotated_instances = instances(rotated, labels, RotatedBoxes)
        sample.pred_rotated_instances = instances(rotated, labels, RotatedBoxes, scores=scores)
    return sample


def random_sample(img_id, objects=6):
    """Objects at random, predicted out of place, with a wrong label or not at all."""
    rng = np.random.default_rng(img_id)
    corners = rng.integers(0, SIZE - 24, (objects, 2))
    boxes = np.concatenate([corners, corners + rng.integers(8, 24, (objects, 2))], 1)
    sample = make_sample(boxes.tolist(), rng.integers(0, 3, objects).tolist(), img_id)
    moved = make_sample(
        (boxes + rng.integers(-3, 4, boxes.shape)).clip(0, SIZE).tolist(),
        sample.gt_instances.labels.tolist(),
    )
    kept = torch.from_numpy(rng.permutation(objects)[:-1])
    for field in ('pred_instances', 'pred_rotated_instances'):
        found = moved.get(field)[kept]
        found.labels[0] = (found.labels[0] + 1) % 3
        found.scores = torch.from_numpy(rng.random(len(kept), np.float32))
        sample.set_field(found, field)
    sample.pred_rotated_instances.bboxes.tensor[:, 4] = torch.from_numpy(
        rng.normal(0, 0.2, len(kept))
    )
    sample.pred_sem_seg = moved.pred_sem_seg
    return sample


def evaluate(samples, metric=None):
    metric = metric or make_metric()
    metric.process(None, [sample.to_dict() for sample in samples])
    return metric.evaluate(len(samples))


BOXES, LABELS = [[4, 6, 34, 16], [30, 30, 50, 60]], [0, 1]


def test_perfect_predictions_give_100_everywhere():
    metric = make_metric(sota=TASKS, sior=TASKS, fast=TASKS)
    metrics = evaluate(
        [make_sample(BOXES, LABELS, dataset=name) for name in ('sota', 'sior', 'fast')], metric
    )
    assert metrics['average'] == 100
    for name in ('sota', 'sior', 'fast'):
        assert {metrics[f'{name}/{figure}'] for figure in FIGURES} == {100}
        assert metrics[f'{name}/rotated/mean_angle_error'] == 0
        for label, occurs in zip(CLASSES, (True, True, False)):
            of_class = [metrics[f'{name}/{key}'.format(label)] for key in OF_A_CLASS]
            assert of_class == [100] * 5 if occurs else all(map(math.isnan, of_class))
        assert metrics[f'{name}/semantic/background/IoU'] == 100
    assert not any('objects' in key or 'predicted' in key for key in metrics), 'for the table'


def test_values_worked_out_by_hand():
    sample = make_sample([[0, 0, 20, 20]], [0])
    # three quarters of the plane found, the rest taken for background; a tenth of it is ignored
    sample.pred_sem_seg.sem_seg[:, 15:20, :20] = 0
    sample.gt_sem_seg.sem_seg[:, :2, :20] = 255
    plane, background = 260 / 360, (SIZE**2 - 400) / (SIZE**2 - 300)
    # the mask and the box have an IoU of 0.75 with the truth: right at six of ten thresholds
    sample.pred_instances.masks[:, 15:] = False
    sample.pred_instances.bboxes[:, 3] = 15
    # one of two ships found, at the highest score, then a false one: 6 of 11 recalls, precision 1
    for field in ('gt_rotated_instances', 'pred_rotated_instances'):
        boxes = [[10, 10, 12, 6, 0.3], [40, 40, 20, 8, -0.5]]
        if field.startswith('pred'):
            boxes[1][0] = 20
        sample.set_field(instances(boxes, [1, 1], RotatedBoxes), field)
    sample.pred_rotated_instances.scores = torch.tensor([0.9, 0.4])
    metrics = evaluate([sample])
    expected = {
        'sota/semantic/mIoU': 50 * (plane + background),
        'sota/instance/bbox_mAP': 60,
        'sota/instance/segm_mAP': 60,
        'sota/rotated/mAP': 600 / 11,
    }
    expected['average'] = (expected['sota/semantic/mIoU'] + 60 + 600 / 11) / 3
    expected['sota/semantic/mIoU_without_background'] = 100 * plane
    expected['sota/semantic/plane/IoU'] = 100 * plane
    expected['sota/rotated/ship/AP50'] = expected['sota/rotated/mAP_75'] = 600 / 11
    expected['sota/rotated/mean_angle_error'] = 0
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)


def test_equals_pycocotools_and_mmrotate(monkeypatch):
    samples = [random_sample(i) for i in range(5)]
    metrics = evaluate(samples)

    truth = dict(images=[], annotations=[], categories=[dict(id=i) for i in range(3)])
    found, dets, annotations = [], [], []
    for number, sample in enumerate(samples):
        truth['images'].append(dict(id=number, height=SIZE, width=SIZE))
        gts, predicted = sample.gt_instances, sample.pred_instances
        for box, label, mask in zip(gts.bboxes.tensor.tolist(), gts.labels.tolist(), gts.masks):
            rle = coco_mask.encode(np.asfortranarray(mask))
            truth['annotations'].append(
                dict(
                    id=len(truth['annotations']) + 1,
                    image_id=number,
                    category_id=label,
                    iscrowd=0,
                    bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    segmentation=rle,
                    area=float(coco_mask.area(rle)),
                )
            )
        for box, label, score, mask in zip(
            predicted.bboxes.tolist(),
            predicted.labels.tolist(),
            predicted.scores.tolist(),
            predicted.masks.numpy(),
        ):
            found.append(
                dict(
                    image_id=number,
                    category_id=label,
                    score=score,
                    bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    segmentation=coco_mask.encode(np.asfortranarray(mask, np.uint8)),
                )
            )
        rotated = sample.pred_rotated_instances
        boxes = torch.cat([rotated.bboxes.tensor, rotated.scores[:, None]], 1).numpy()
        dets.append([boxes[rotated.labels.numpy() == label] for label in range(3)])
        annotations.append(
            dict(
                bboxes=sample.gt_rotated_instances.bboxes.tensor.numpy(),
                labels=sample.gt_rotated_instances.labels.numpy(),
                bboxes_ignore=np.zeros((0, 5)),
                labels_ignore=np.zeros(0),
            )
        )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        for kind, other in (('bbox', 'segmentation'), ('segm', 'bbox')):
            results = coco.loadRes(
                [{k: v for k, v in entry.items() if k != other} for entry in found]
            )
            reference = COCOeval(coco, results, kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
            assert 5 < reference.stats[0] * 100 < 95
            assert metrics[f'sota/instance/{kind}_mAP'] == pytest.approx(reference.stats[0] * 100)
    # threads: its processes would not know mtp's operators
    monkeypatch.setattr(mean_ap, 'get_context', lambda _: multiprocessing.dummy)
    rotated_map, _ = mean_ap.eval_rbbox_map(dets, annotations, nproc=1, logger='silent')
    assert 5 < rotated_map * 100 < 95
    assert metrics['sota/rotated/mAP'] == pytest.approx(rotated_map * 100)


@pytest.mark.parametrize(('degrees', 'expected'), [(90, 0), (20, 0), (3, 100), (180, 100)])
def test_rotated_map_sees_the_angle(degrees, expected):
    sample = make_sample([[10, 28, 50, 36]], [1])
    sample.pred_rotated_instances.bboxes.tensor[:, 4] = math.radians(degrees)
    assert evaluate([sample])['sota/rotated/mAP'] == pytest.approx(expected)


def test_objects_and_pixels_of_a_scene_count_once(tmp_path):
    """Two tiles share 32 columns with A, which is found in both; B is found in none."""
    in_scene = [(36, 4, 56, 24), (8, 40, 56, 56)]
    objects = [
        dict(label=0, ignored=False, corners=[x1, y1, x2, y1, x2, y2, x1, y2])
        for x1, y1, x2, y2 in in_scene
    ]
    objects[1]['rotated'] = objects[1]['corners'][2:] + objects[1]['corners'][:2]
    tiles = [[0, 0, SIZE], [32, 0, SIZE]]
    scenes = [
        dict(name=name, height=SIZE, width=96, tiles=tiles, objects=objects)
        for name in ('s', 'unseen')
    ]
    path = tmp_path / 'val.json'
    content = dict(classes=CLASSES, tasks=TASKS, scenes=scenes[:1])
    path.write_text(json.dumps(content))

    def samples():
        for x in (0, 32):
            boxes = [(max(x1 - x, 0), y1, x2 - x, y2) for x1, y1, x2, y2 in in_scene]
            sample = make_sample(boxes, [0, 0], img_id=x)
            sample.set_metainfo(dict(img_path=f'images/s__{SIZE}__{x}___0.png'))
            for key in ('pred_instances', 'pred_rotated_instances'):
                sample.set_field(sample.get(key)[:1], key, dtype=InstanceData)
            sample.pred_sem_seg.sem_seg[:, 40:] = 0
            yield sample

    def judge():
        metric = MultiTaskMetric(scenes=dict(sota=str(path)))
        metric.dataset_meta = make_metric().dataset_meta
        return evaluate([*samples()], metric)

    metrics = judge()
    assert metrics['sota/instance/bbox_mAP'] == pytest.approx(100 * 51 / 101)
    assert metrics['scene/sota/instance/bbox_mAP'] == pytest.approx(100 * 51 / 101)
    assert metrics['scene/sota/rotated/mAP'] == pytest.approx(100 * 6 / 11)
    assert metrics['scene/sota/semantic/plane/IoU'] == pytest.approx(100 * 400 / 1168)
    assert metrics['sota/semantic/plane/IoU'] == pytest.approx(100 * 800 / 1952)
    assert 'scene/sota/instance/segm_mAP' not in metrics and 'scene/average' not in metrics
    path.write_text(json.dumps(content | dict(tasks=['rotated'], scenes=scenes)))
    metrics = judge()  # of a scene without predictions all objects are missed
    assert metrics['scene/sota/rotated/mAP'] == pytest.approx(100 * 3 / 11)
    assert not any(key.startswith(('scene/sota/i', 'scene/sota/s')) for key in metrics)
    path.write_text(json.dumps(content | dict(classes=['ship', 'plane', 'harbor'])))
    with pytest.raises(UnusableFileError, match='ship, plane, harbor.*plane, ship, harbor'):
        judge()


def test_task_without_labels_is_left_out():
    metric = make_metric(sota=('semantic', 'rotated'), sior=('instance',))
    metrics = evaluate(
        [
            make_sample(BOXES, LABELS, 0, 'sota', ('semantic', 'rotated')),
            make_sample(BOXES, LABELS, 0, 'sior', ('instance',)),
        ],
        metric,
    )
    assert {'/'.join(key.split('/')[:2]) for key in metrics} == {
        'sota/semantic',
        'sota/rotated',
        'sior/instance',
        'average',
    }
    with pytest.raises(ValueError, match="labels for the task 'instance', but the model"):
        evaluate([make_sample(BOXES, LABELS, tasks=('semantic', 'rotated'))])


def test_a_data_set_without_masks_has_the_ap_of_boxes_alone():
    sample = make_sample(BOXES, LABELS, tasks=('instance',))
    del sample.pred_instances.masks
    metrics = evaluate([sample], make_metric(sota=('instance',)))
    assert metrics['sota/instance/bbox_mAP'] == pytest.approx(100)
    assert not [key for key in metrics if 'segm' in key]


def test_without_predictions_or_without_objects():
    sample = make_sample(BOXES, LABELS)
    sample.pred_instances = sample.pred_instances[:0]
    sample.pred_rotated_instances = sample.pred_rotated_instances[:0]
    metrics = evaluate([sample])
    assert metrics['sota/semantic/mIoU'] == pytest.approx(100)
    assert [
        metrics[f'sota/{key}'] for key in ('instance/bbox_mAP', 'instance/segm_mAP', 'rotated/mAP')
    ] == [0, 0, 0]

    # an image without objects: false alarms count as soon as another image has some
    empty = make_sample([], [], img_id=1)
    with_alarm = make_sample([], [], img_id=1)
    for field in ('pred_instances', 'pred_rotated_instances'):
        with_alarm.set_field(make_sample(BOXES, LABELS).get(field), field)
        with_alarm.get(field).scores += 0.1
    alone = evaluate([with_alarm])
    assert math.isnan(alone['sota/instance/segm_mAP']) and math.isnan(alone['sota/rotated/mAP'])
    assert math.isnan(alone['sota/semantic/mIoU']) and math.isnan(alone['average'])
    full = make_sample(BOXES, LABELS)
    assert evaluate([full, empty])['average'] == pytest.approx(100)
    both = evaluate([full, with_alarm])
    assert both['sota/instance/segm_mAP'] == pytest.approx(50)
    assert both['sota/rotated/mAP'] == pytest.approx(50)


def test_crowds_are_neither_right_nor_wrong():
    sample = make_sample(BOXES, LABELS)
    sample.ignored_instances = sample.gt_instances[1:]
    sample.gt_instances = sample.gt_instances[:1]
    metrics = evaluate([sample])
    assert metrics['sota/instance/segm_mAP'] == pytest.approx(100)


def evaluate_share(rank, num_images, world_size, folder):
    """What a rank gets from mmengine's DefaultSampler: every world-th image, padded at the end."""
    os.chdir(folder)
    padded = -(-num_images // world_size) * world_size
    metric = make_metric()
    for index in range(rank, padded, world_size):
        metric.process(None, [random_sample(index % num_images).to_dict()])
    return metric.evaluate(num_images)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    expected = evaluate([random_sample(i) for i in range(5)])
    assert run_processes(evaluate_share, 2, 5, 2, str(tmp_path)) == [expected, expected]


def test_an_image_counts_once_and_ids_belong_to_their_data_set():
    once = evaluate([random_sample(0), random_sample(1)])
    assert evaluate([random_sample(0), random_sample(1), random_sample(0)]) == once
    metric = make_metric(sota=TASKS, sior=TASKS)
    other = random_sample(0)
    other.set_metainfo(dict(dataset='sior'))
    metrics = evaluate([random_sample(0), random_sample(1), other], metric)
    assert metrics['sota/rotated/mAP'] == once['sota/rotated/mAP'] != metrics['sior/rotated/mAP']


def test_prints_a_table_of_each_data_set_and_one_of_all(tables):
    metric = make_metric(sota=TASKS, sior=('semantic',))
    evaluate(
        [make_sample(BOXES, LABELS), make_sample(BOXES, LABELS, 0, 'sior', ('semantic',))], metric
    )
    sota, sior, of_all = ([line.split() for line in text.splitlines()] for text in tables)
    assert sota[4] == ['plane', '100.00', '1', '1', *['100.00'] * 2, '1', *['100.00'] * 2, '0.00']
    assert sota[6] == ['harbor', '-', '0', '0', '-', '-', '0', '-', '-', '-']
    assert sota[7][:2] == sior[7] == ['background', '100.00']
    assert of_all[4:6] == [
        ['sota', *['100.00'] * 6, '0.00'],
        ['sior', '100.00', '100.00', *['-'] * 5],
    ]
    assert of_all[6][0] == 'average' and of_all[6][-1] == '100.00' and len(of_all) == 7
