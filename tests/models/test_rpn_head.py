"""Region proposals and RPN losses of padded batches against the libraries' heads."""

from pathlib import Path

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.task_modules import MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmrotate.models.dense_heads import OrientedRPNHead
from mmrotate.structures import RotatedBoxes

from mtp.batch_rungs import Rung
from mtp.models.tasks.base import TaskBatch, average
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.registry import MODELS
from mtp.sample_fields import Boxes
from tests.models.small import make_sample

HEADS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'pretrain' / 'heads'
SIDE = 128


def build_heads(task, num):
    """Ours, and the library's with mmdet's assigner and sampler."""
    cfg = Config.fromfile(HEADS / f'{task}.py')[task]
    rpn = cfg.train_cfg.rpn
    rpn.sampler.num = num
    settings = dict(cfg.rpn_head, in_channels=8, feat_channels=8, test_cfg=cfg.test_cfg.rpn)
    ours = MODELS.build(dict(settings, train_cfg=rpn))
    plain = dict(
        rpn,
        assigner=dict(rpn.assigner, type=MaxIoUAssigner),
        sampler=dict(rpn.sampler, type=RandomSampler),
    )
    reference = MODELS.build(
        dict(
            settings,
            type=RPNHead if task == 'instance' else OrientedRPNHead,
            train_cfg=Config(plain),
        )
    )
    return ours, reference, cfg


def make_batch():
    objects = [[(0, (10, 12, 50, 40)), (1, (60, 64, 120, 120))], [], [(1, (5, 50, 100, 90))]]
    samples = [
        make_sample('ab'[i == 2], objects=found, seed=i, size=SIDE)[1]
        for i, found in enumerate(objects)
    ]
    for sample, shape in zip(samples, [(SIDE, SIDE), (SIDE, 96), (72, SIDE)]):
        sample.set_metainfo(
            dict(pad_shape=tuple(-(-side // 32) * 32 for side in shape), img_shape=shape)
        )
    return TaskBatch(samples, dict(a=slice(0, 2), b=slice(2, 3)), torch.device('cpu'))


def collect(batch, field):
    """Collect the ground truth of samples as the data preprocessor pads it."""
    values = [sample.get(field) for sample in batch.samples]
    boxes = Boxes(RotatedBoxes if 'rotated' in field else HorizontalBoxes)
    padded = boxes.split(boxes.join(values, (SIDE, SIDE), Rung(8, 8, 0, 8)), (SIDE, SIDE))
    samples = [DetDataSample(metainfo=sample.metainfo) for sample in batch.samples]
    for sample, of_image in zip(samples, padded):
        setattr(sample, field, of_image)
    return GroundTruth.collect(TaskBatch(samples, batch.groups, batch.device), field, False)


def make_maps(head, scale=1.0):
    """Random outputs of the head, no two scores equal."""
    generator = torch.Generator().manual_seed(0)
    sizes = [SIDE // stride for stride in (4, 8, 16, 32, 64)]
    total = sum(3 * 3 * n * n for n in sizes)
    logits = (torch.randperm(total, generator=generator) / total * 8 - 4).split(
        [9 * n * n for n in sizes]
    )
    return (
        [level.view(3, 3, n, n) for level, n in zip(logits, sizes)],
        [
            scale * torch.randn(3, 3 * head.bbox_coder.encode_size, n, n, generator=generator)
            for n in sizes
        ],
    )


def on_two_maps(head, scores, deltas):
    """Outputs of all levels, as our head returns them."""
    anchors = head._anchors_of(scores)
    first, *others = [torch.cat(level, 1) for level in zip(scores, deltas)]
    maps = first, anchors.canvas.paste(others)
    return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], 1), anchors


@pytest.mark.parametrize('task', ['instance', 'rotated'])
@pytest.mark.parametrize('size', [(64, 64), (32, 64), (37, 21)])
def test_outputs_and_gradients_are_the_librarys(task, size):
    ours, reference, _ = build_heads(task, 256)
    reference.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)

    def random(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = [[-(-side // n) for side in size] for n in (1, 2, 4, 8, 16)]
    feats = [random((2, 8, *level)).requires_grad_() for level in sizes]
    found, anchors = ours.double()(feats)
    found = anchors.levels(found)
    expected = [torch.cat(level, 1) for level in zip(*reference.double()(feats))]
    weights = [random(level.shape) for level in expected]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, [*feats, *ours.parameters()], weights),
        torch.autograd.grad(expected, [*feats, *reference.parameters()], weights),
    )


@pytest.mark.parametrize(
    ('task', 'nms_pre'), [('instance', 400), ('rotated', 400), ('instance', -1)]
)
def test_proposals_are_the_librarys(task, nms_pre):
    ours, reference, cfg = build_heads(task, 256)
    batch, maps = make_batch(), make_maps(ours, scale=0.3)
    settings = Config(dict(cfg.train_cfg.rpn_proposal, nms_pre=nms_pre, max_per_img=150))
    proposals = ours.propose(*on_two_maps(ours, *maps), batch.shapes, settings)
    with torch.no_grad():
        expected = reference.predict_by_feat(
            *maps, cfg=settings, batch_img_metas=[sample.metainfo for sample in batch.samples]
        )
    for boxes, valid, result in zip(proposals.boxes, proposals.valid, expected):
        assert valid.sum() == len(result)
        torch.testing.assert_close(
            boxes[valid], get_box_tensor(result.bboxes), rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize('task', ['instance', 'rotated'])
def test_losses_are_the_librarys(task):
    # every anchor is sampled: which ones a smaller number would hit is another test
    ours, reference, _ = build_heads(task, 40_000)
    batch, maps = make_batch(), make_maps(ours)
    rotated = task == 'rotated'
    field = 'gt_rotated_instances' if rotated else 'gt_instances'
    truth = collect(batch, field)
    terms = ours.loss_batch(*on_two_maps(ours, *maps), truth, batch.shapes)
    losses = average(batch, [terms])
    for name, group in batch.groups.items():
        objects = []
        for sample in batch.samples[group]:
            boxes = get_box_tensor(sample.get(field).bboxes)
            objects.append(
                InstanceData(
                    bboxes=RotatedBoxes(boxes) if rotated else boxes,
                    labels=torch.zeros(len(boxes), dtype=torch.long),
                )
            )
        expected = reference.loss_by_feat(
            *([level[group] for level in levels] for levels in maps),
            objects,
            [sample.metainfo for sample in batch.samples[group]],
        )
        for term, value in expected.items():
            torch.testing.assert_close(losses[name][term], sum(value), rtol=1e-5, atol=1e-6)


def test_an_image_smaller_than_all_anchors_adds_no_loss():
    ours, _, _ = build_heads('rotated', 256)
    batch = make_batch()
    for sample in batch.samples:
        sample.set_metainfo(dict(img_shape=(8, 8), pad_shape=(32, 32)))
    truth = collect(batch, 'gt_rotated_instances')
    terms = ours.loss_batch(*on_two_maps(ours, *make_maps(ours)), truth, batch.shapes)
    losses = average(batch, [terms])
    assert all(value == 0 for terms in losses.values() for value in terms.values())
