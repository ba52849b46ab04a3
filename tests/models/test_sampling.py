"""Assignment and sampling of padded batches against mmdet's, image by image."""

import itertools

import pytest
import torch
from mmdet.models.task_modules import BboxOverlaps2D, MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmengine.structures import InstanceData
from mmrotate.models.task_modules import RBbox2HBboxOverlaps2D, RBboxOverlaps2D
from mmrotate.structures import RotatedBoxes

from mtp.models.tasks import BatchedMaxIoUAssigner, SeededRandomSampler
from mtp.models.tasks import sampling as module
from mtp.models.tasks.ground_truth import GroundTruth

RPN = dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True)
ROI = dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False)


def make_boxes(count, rotated, generator):
    centre = torch.rand(count, 2, generator=generator) * 60
    size = torch.rand(count, 2, generator=generator) * 30 + 4
    if rotated:
        return torch.cat([centre, size, torch.rand(count, 1, generator=generator) - 0.5], 1)
    return torch.cat([centre - size / 2, centre + size / 2], 1).round()  # equal overlaps occur


def make_truth(counts, rotated, generator):
    width = 8
    boxes = torch.zeros(len(counts), width, 5 if rotated else 4)
    for row, count in zip(boxes, counts):
        row[:count] = make_boxes(count, rotated, generator)
    valid = torch.arange(width) < torch.tensor(counts)[:, None]
    return GroundTruth(
        boxes,
        torch.zeros(boxes.shape[:2], dtype=torch.long),
        valid,
        torch.zeros_like(valid, dtype=torch.long),
        None,
        torch.arange(len(counts)),
        0,
    )


@pytest.mark.parametrize('at_once', [1 << 25, 1])
@pytest.mark.parametrize(
    'calculator, rotated, settings',
    [
        (BboxOverlaps2D, (False, False), RPN),
        (BboxOverlaps2D, (False, False), ROI),
        (RBbox2HBboxOverlaps2D, (True, False), RPN),
        (RBboxOverlaps2D, (True, True), ROI),
    ],
)
def test_assignment_is_mmdets(calculator, rotated, settings, at_once, monkeypatch):
    monkeypatch.setattr(module, 'PAIRS_AT_ONCE', at_once)
    generator = torch.Generator().manual_seed(0)
    truth = make_truth([3, 0, 8, 1], rotated[0], generator)
    boxes = torch.stack([make_boxes(300, rotated[1], generator) for _ in truth.boxes])
    boxes[0, :3] = boxes[0, 3:6]  # several boxes of equal overlap
    boxes[2, 7] = boxes[2, 8]
    valid = torch.rand(boxes.shape[:2], generator=generator) > 0.1
    settings = dict(settings, iou_calculator=dict(type=calculator))
    ours = BatchedMaxIoUAssigner(**settings).assign_batch(boxes, valid, truth)

    reference = MaxIoUAssigner(**settings)
    for i in range(len(boxes)):
        objects = truth.boxes[i, truth.valid[i]]
        labels = torch.zeros(len(objects), dtype=torch.long)
        priors = RotatedBoxes(boxes[i, valid[i]]) if rotated[1] else boxes[i, valid[i]]
        expected = reference.assign(
            InstanceData(priors=priors),
            InstanceData(bboxes=RotatedBoxes(objects) if rotated[0] else objects, labels=labels),
        )
        assert torch.equal(ours[i, valid[i]], expected.gt_inds)
    assert (ours[~valid] == -1).all()
    assert (ours[0] > 0).any() and (ours[2] > 0).any() and not (ours[1] > 0).any()


@pytest.mark.parametrize('positives, negatives', [(3, 50), (40, 50), (40, 5), (0, 50), (0, 0)])
def test_as_many_are_sampled_as_by_mmdet(positives, negatives):
    torch.manual_seed(0)
    assigned = torch.full((100,), -1)
    places = torch.randperm(100)
    assigned[places[:positives]] = torch.randint(1, 5, (positives,))
    assigned[places[positives : positives + negatives]] = 0
    settings = dict(num=32, pos_fraction=0.25, add_gt_as_proposals=False)
    samples = SeededRandomSampler(**settings).sample_batch(
        torch.stack([assigned, assigned.flip(0)]), torch.tensor([5, 6])
    )

    reference = RandomSampler(**settings)
    result = type('Result', (), dict(gt_inds=assigned))
    expected_pos = reference._sample_pos(result, 8)
    expected_neg = reference._sample_neg(result, 32 - len(expected_pos))
    assert samples.index.shape[1] == 32 and samples.most == 8
    for row, labels in ((0, assigned), (1, assigned.flip(0))):
        index = samples.index[row, samples.valid[row]]
        assert len(index.unique()) == len(index)
        chosen = labels[index]
        assert (chosen > 0).sum() == len(expected_pos)
        assert (chosen == 0).sum() == len(expected_neg)
        first = samples.positive[row, : len(expected_pos)]
        assert first.all() and not samples.positive[row, len(expected_pos) :].any()
        assert torch.equal(
            samples.object[row, samples.positive[row]],
            labels[samples.index[row, samples.positive[row]]] - 1,
        )


def test_filled_slots_come_first_as_by_a_stable_sort():
    for positives, negatives, most in itertools.product(range(4), range(5), (1, 4, 7, 9)):
        positive = torch.tensor([[i < positives for i in range(3)]])
        negative = torch.tensor([[i < negatives for i in range(4)]])
        slots, filled = module._filled_first(positive, negative, most)
        flags, order = (
            torch.cat([positive, negative], 1).byte().sort(dim=1, descending=True, stable=True)
        )
        assert torch.equal(slots, order[:, :most]) and torch.equal(filled, flags[:, :most].bool())


def test_a_draw_depends_on_the_seed_alone():
    assigned = torch.zeros(3, 60, dtype=torch.long)
    sampler = SeededRandomSampler(num=10, pos_fraction=0.5, add_gt_as_proposals=False)
    first = sampler.sample_batch(assigned, torch.tensor([1, 2, 3])).index
    again = sampler.sample_batch(assigned[:2], torch.tensor([3, 1])).index
    assert torch.equal(first[[2, 0]], again)
    assert not torch.equal(first[0], first[1])


def test_each_box_is_drawn_equally_often():
    assigned = torch.zeros(4000, 20, dtype=torch.long)
    sampler = SeededRandomSampler(num=5, pos_fraction=0.5, add_gt_as_proposals=False)
    index = sampler.sample_batch(assigned, torch.arange(4000)).index
    counts = torch.bincount(index.flatten(), minlength=20)
    # 1000 each, with a standard deviation of 27
    assert (counts - 1000).abs().max() < 130


def test_options_without_a_batched_form_are_refused():
    with pytest.raises(ValueError, match='ignore_iof_thr'):
        BatchedMaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5, ignore_iof_thr=0.5)
    with pytest.raises(ValueError, match='neg_pos_ub'):
        SeededRandomSampler(num=4, pos_fraction=0.5, neg_pos_ub=3)


def test_draws_are_those_of_splitmix64():
    """Recorded outputs of the reference implementation, less their two lowest bits."""
    expected = [
        [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
        [0x910A2DEC89025CC1, 0xBEEB8DA1658EEC67, 0xF893A2EEFB32555E],
    ]
    draws = module.hashed(torch.tensor([0, 1]), 3)
    assert draws.tolist() == [[number >> 2 for number in numbers] for numbers in expected]
