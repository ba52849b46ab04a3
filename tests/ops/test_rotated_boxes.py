"""Overlaps and NMS of rotated boxes."""

import math

import numpy as np
import pytest
import torch
from shapely import affinity
from shapely.geometry import box as shapely_box

from mtp.ops import box_iou_rotated, nms_rotated


def random_boxes(num, seed=0, size=100.0):
    u = torch.rand(num, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack(
        [u[:, 0] * size, u[:, 1] * size, 1 + u[:, 2] * 40, 1 + u[:, 3] * 40, (u[:, 4] - 0.5) * 8], 1
    )


def polygon(rbox):
    cx, cy, w, h, angle = rbox.tolist()
    flat = shapely_box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    return affinity.rotate(flat, angle, use_radians=True)


def test_overlaps_equal_polygon_intersections():
    boxes1, boxes2 = random_boxes(30), random_boxes(20, seed=1)
    expected = torch.zeros(30, 20, dtype=torch.float64)
    for i, a in enumerate(map(polygon, boxes1)):
        for j, b in enumerate(map(polygon, boxes2)):
            expected[i, j] = a.intersection(b).area / a.union(b).area
    assert (expected > 0).sum() >= 100
    torch.testing.assert_close(box_iou_rotated(boxes1, boxes2), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        box_iou_rotated(boxes1[:20], boxes2, aligned=True),
        expected[:20].diagonal(),
        atol=1e-9,
        rtol=0,
    )
    single = box_iou_rotated(boxes1.float(), boxes2.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=0)


def test_golden(shared):
    data = {
        key: torch.from_numpy(value)
        for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()
    }
    for mode in ('iou', 'iof'):
        pairwise = box_iou_rotated(data['boxes1'], data['boxes2'], mode)
        torch.testing.assert_close(pairwise, data[f'{mode}_pairwise'], atol=1e-4, rtol=0)
        count = len(data['boxes2'])
        aligned = box_iou_rotated(data['boxes1'][:count], data['boxes2'], mode, aligned=True)
        torch.testing.assert_close(aligned, data[f'{mode}_aligned'], atol=1e-4, rtol=0)
    for threshold in (0.1, 0.3, 0.5, 0.8):
        keep = nms_rotated(data['nms_boxes'], data['nms_scores'], threshold)
        assert torch.equal(keep, data[f'nms_keep_{threshold}'])


SPECIAL_PAIRS = (
    ((5, 5, 4, 2, 0.3), (5, 5, 4, 2, 0.3), 1.0),  # identical
    ((5, 5, 4, 2, 0.3), (5, 5, 2, 4, 0.3 + math.pi / 2), 1.0),  # the same, written otherwise
    ((5, 5, 4, 4, 0.0), (5, 5, 2, 2, 0.7), 0.25),  # one inside the other
    ((5, 5, 4, 2, 0.0), (9, 5, 4, 2, 0.0), 0.0),  # shared edge
    ((5, 5, 4, 2, 0.0), (7, 5, 4, 2, 0.0), 1 / 3),  # collinear edges
    ((5, 5, 0, 2, 0.0), (5, 5, 4, 2, 0.0), 0.0),  # no width
    ((5, 5, 0, 0, 0.0), (5, 5, 0, 0, 0.0), 0.0),  # points
    ((5e4, 5e4, 1e4, 1e-1, 1.0), (5e4, 5e4, 1e4, 1e-1, 1.0), 1.0),  # needle, far away
)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_images_are_compared_one_by_one(mode, monkeypatch):
    boxes1, boxes2 = random_boxes(60, size=40.0).view(3, 20, 5), random_boxes(21, 1).view(3, 7, 5)
    expected = torch.stack([box_iou_rotated(*pair, mode) for pair in zip(boxes1, boxes2)])
    assert all(image.any() for image in expected)
    assert torch.equal(box_iou_rotated(boxes1, boxes2, mode), expected)
    monkeypatch.setattr('mtp.ops.rotated_boxes._LOOKS_PER_CHUNK', 7 * 3 * 6)  # 6 rows at a time
    assert torch.equal(box_iou_rotated(boxes1, boxes2, mode), expected)
    assert box_iou_rotated(boxes1[:0], boxes2[:0]).shape == (0, 20, 7)
    assert box_iou_rotated(boxes1, boxes2[:, :0]).shape == (3, 20, 0)
    with pytest.raises(ValueError, match='as many images'):
        box_iou_rotated(boxes1, boxes2[:2])
    with pytest.raises(ValueError, match='aligned'):
        box_iou_rotated(boxes1, boxes1, aligned=True)


@pytest.mark.parametrize('a, b, expected', SPECIAL_PAIRS)
def test_special_pairs(a, b, expected):
    for first, second in ((a, b), (b, a)):
        iou = box_iou_rotated(torch.tensor([first]), torch.tensor([second]))
        assert iou.item() == pytest.approx(expected, abs=1e-5)


def test_empty_and_wrong_input():
    none, some = torch.zeros(0, 5), random_boxes(3)
    assert box_iou_rotated(none, some).shape == (0, 3)
    assert box_iou_rotated(some, none).shape == (3, 0)
    assert box_iou_rotated(none, none, aligned=True).shape == (0,)
    assert nms_rotated(none, torch.zeros(0), 0.5).tolist() == []
    assert nms_rotated(some[:1], torch.ones(1), 0.5).tolist() == [0]
    with pytest.raises(ValueError, match=r'\(N, 5\)'):
        box_iou_rotated(torch.zeros(3, 4), some)
    with pytest.raises(ValueError, match='mode'):
        box_iou_rotated(some, some, mode='giou')
    with pytest.raises(ValueError, match='equal numbers'):
        box_iou_rotated(some, some[:2], aligned=True)
    with pytest.raises(ValueError, match='as many scores'):
        nms_rotated(some, torch.ones(2), 0.5)
    with pytest.raises(ValueError, match='as many labels'):
        nms_rotated(some, torch.ones(3), 0.5, torch.zeros(2))
    with pytest.raises(ValueError, match='floating-point'):
        box_iou_rotated(some.long(), some)
    for other in (
        lambda: box_iou_rotated(some, some.to('meta')),
        lambda: nms_rotated(some, torch.ones(3, device='meta'), 0.5),
    ):
        with pytest.raises(ValueError, match='one device'):
            other()
    some[1, 4] = math.nan
    for wrong in (
        lambda: box_iou_rotated(random_boxes(2), some),
        lambda: nms_rotated(some, torch.ones(3), 0.5),
    ):
        with pytest.raises(ValueError, match='1 of 3 boxes have NaN.*row 1'):
            wrong()


def test_nan_scores_come_first():
    box = random_boxes(1).repeat(3, 1)
    assert nms_rotated(box, torch.tensor([0.1, math.nan, 0.9]), 0.5).tolist() == [1]


def test_overlaps_have_no_gradient():
    boxes = random_boxes(3).requires_grad_()
    assert not box_iou_rotated(boxes, boxes).requires_grad
    assert not box_iou_rotated(boxes, boxes, aligned=True).requires_grad


def test_chunks_do_not_show(monkeypatch):
    boxes = random_boxes(50)
    boxes[:9, :4] = 50  # together at one place
    whole, aligned = box_iou_rotated(boxes, boxes), box_iou_rotated(boxes, boxes, aligned=True)
    monkeypatch.setattr('mtp.ops.rotated_boxes._LOOKS_PER_CHUNK', 7)  # less than a row
    monkeypatch.setattr('mtp.ops.rotated_boxes._PAIRS_PER_CHUNK', 6)
    assert torch.equal(box_iou_rotated(boxes, boxes), whole)
    assert torch.equal(box_iou_rotated(boxes, boxes, aligned=True), aligned)


def greedy(boxes, scores, threshold, labels):
    """The definition, one box after the other."""
    overlaps, keep = box_iou_rotated(boxes, boxes), []
    for i in scores.argsort(descending=True).tolist():
        if all(overlaps[i, j] <= threshold or labels[i] != labels[j] for j in keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize('threshold', [0.02, 0.1, 0.5])
def test_nms_is_greedy(threshold, monkeypatch):
    # small chunks: their borders must not show
    monkeypatch.setattr('mtp.ops.rotated_boxes._LOOKS_PER_CHUNK', 6000)  # 30 rows
    monkeypatch.setattr('mtp.ops.rotated_boxes._PAIRS_PER_CHUNK', 100)
    boxes = random_boxes(200)
    scores = torch.rand(200, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(200) % 3
    assert nms_rotated(boxes, scores, threshold).tolist() == greedy(
        boxes, scores, threshold, labels * 0
    )
    assert nms_rotated(boxes, scores, threshold, labels).tolist() == greedy(
        boxes, scores, threshold, labels
    )


def test_nms_of_a_long_chain():
    """Each box overlaps only the next: every second one is kept, in as many sweeps as boxes."""
    boxes = torch.tensor([[2.0 * i, 0, 3, 3, 0] for i in range(51)])
    keep = nms_rotated(boxes, torch.arange(51, 0, -1).float(), 0.1)
    assert keep.tolist() == list(range(0, 51, 2))
