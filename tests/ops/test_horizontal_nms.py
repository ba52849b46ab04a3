"""NMS of horizontal boxes, group by group."""

import pytest
import torch
from torchvision.ops import box_iou

from mtp.ops import kept_horizontal


def groups_of_boxes(*shape, size=100.0, seed=0):
    u = torch.rand(*shape, 4, generator=torch.Generator().manual_seed(seed))
    return torch.cat([u[..., :2] * size, u[..., :2] * size + u[..., 2:] * 40], -1)


def greedy(boxes, valid, threshold):
    """The definition, one box after the other."""
    keep = torch.zeros_like(valid)
    for boxes_g, valid_g, keep_g in zip(boxes, valid, keep):
        overlaps = box_iou(boxes_g, boxes_g)
        for i in range(len(boxes_g)):
            keep_g[i] = valid_g[i] and not (overlaps[i, keep_g] > threshold).any()
    return keep


@pytest.mark.parametrize('threshold', [0.1, 0.7])
def test_is_greedy_in_each_group(threshold):
    boxes = groups_of_boxes(3, 60, size=30.0)
    valid = torch.rand(3, 60) > 0.3
    valid[1] = False
    keep = kept_horizontal(boxes, valid, threshold)
    assert torch.equal(keep, greedy(boxes, valid, threshold))
    assert 0 < keep.sum() < valid.sum() and not keep[1].any()


def test_equals_batched_nms_by_level():
    """mmcv's, which keeps groups apart by moving them."""
    from mmcv.ops import batched_nms

    boxes, scores = groups_of_boxes(1, 90), torch.rand(90).sort(descending=True).values
    levels = torch.arange(90) % 4
    settings = {'type': 'nms', 'iou_threshold': 0.3}
    kept = batched_nms(boxes[0], scores, levels, settings)[1].sort().values
    groups = boxes.expand(4, -1, -1)
    keep = kept_horizontal(groups, levels == torch.arange(4)[:, None], 0.3)
    assert torch.equal(keep.any(0).nonzero().squeeze(1), kept)


def test_empty_and_wrong_input():
    some, flags = groups_of_boxes(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for shape in ((0, 3), (2, 0)):
        none = kept_horizontal(torch.zeros(*shape, 4), torch.ones(shape, dtype=torch.bool), 0.5)
        assert none.shape == shape and none.dtype == torch.bool
    assert torch.equal(
        kept_horizontal(some.bfloat16(), flags, 0.5),
        kept_horizontal(some.bfloat16().float(), flags, 0.5),
    )
    with pytest.raises(ValueError, match=r'\(G, N, 4\)'):
        kept_horizontal(some[0], flags, 0.5)
    with pytest.raises(ValueError, match=r'bool \(2, 3\)'):
        kept_horizontal(some, flags[:, :2], 0.5)
    with pytest.raises(ValueError, match='a flag a box'):
        kept_horizontal(some, flags.float(), 0.5)
    with pytest.raises(ValueError, match='one device'):
        kept_horizontal(some, flags.to('meta'), 0.5)
