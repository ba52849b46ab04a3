"""``mmcv.ops`` on the portable extension."""
import numpy as np
import pytest
import torch
from mmcv import ops

from mtp.ops import mmcv_ext


@pytest.fixture(scope='module')
def golden(shared):
    return {key: torch.from_numpy(value)
            for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()}


def test_rotated_nms(golden):
    for threshold in (0.1, 0.3, 0.5, 0.8):
        boxes, scores = golden['nms_boxes'], golden['nms_scores']
        dets, keep = ops.nms_rotated(boxes, scores, threshold)
        assert torch.equal(keep, golden[f'nms_keep_{threshold}'])
        assert torch.equal(dets, torch.cat([boxes[keep], scores[keep, None]], 1))
        keep = ops.nms_rotated(boxes, scores, threshold, golden['nms_labels'])[1]
        assert torch.equal(keep, golden[f'nms_class_keep_{threshold}'])
    dets, keep = ops.batched_nms(golden['nms_boxes'], golden['nms_scores'], golden['nms_labels'],
                                 dict(type='nms_rotated', iou_threshold=0.1))
    assert torch.equal(keep, golden['batched_nms_rotated_keep_0.1'])
    torch.testing.assert_close(dets, golden['batched_nms_rotated_dets_0.1'])


def test_horizontal_nms_and_roi_align(golden):
    for threshold in (0.3, 0.7):
        keep = ops.nms(golden['hnms_boxes'], golden['hnms_scores'], threshold)[1]
        assert torch.equal(keep, golden[f'hnms_keep_{threshold}'])
    features = golden['hroi_features'].clone().requires_grad_()
    out = ops.roi_align(features, golden['hrois'], 7, 0.25, 0, 'avg', True)
    torch.testing.assert_close(out, golden['hroi_out'], atol=1e-4, rtol=0)
    out.backward(golden['hroi_cotangent'])
    torch.testing.assert_close(features.grad, golden['hroi_grad'], atol=1e-4, rtol=0)


def test_rotated_overlaps_and_roi_align(golden):
    iou = ops.box_iou_rotated(golden['boxes1'], golden['boxes2'])
    torch.testing.assert_close(iou, golden['iou_pairwise'], atol=1e-4, rtol=0)
    features = golden['roi_features'].clone().requires_grad_()
    out = ops.RoIAlignRotated(7, 0.125, 2, clockwise=True)(features, golden['rois'])
    torch.testing.assert_close(out, golden['roi_official_out'], atol=1e-4, rtol=0)
    out.backward(golden['roi_official_cotangent'])
    torch.testing.assert_close(features.grad, golden['roi_official_grad'], atol=1e-4, rtol=0)


def test_horizontal_nms_with_offset():
    """With offset 1 a box (x1, y1, x2, y2) covers its last pixel: these overlap by 1 of 3 columns."""
    boxes = torch.tensor([[0.0, 0, 1, 9], [1, 0, 2, 9]])
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.2, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.2, offset=1)[1]) == 1


@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 2.0, 1.0])])
def test_focal_loss(weight):
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 0, 2])  # 3 is background
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, 'sum')
    p = logits.sigmoid()
    positive = torch.eye(4, 3)[target].bool()
    expected = torch.where(positive, -0.25 * (1 - p) ** 2 * p.log(),
                           -0.75 * p ** 2 * (1 - p).log())
    if weight is not None:
        expected = expected * torch.cat([weight, torch.ones(1)])[target][:, None]
    torch.testing.assert_close(loss, expected.sum())
    ours, = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), logits)[0])
    assert ops.sigmoid_focal_loss(torch.full((1, 3), 200.0), torch.tensor([3]), 2.0, 0.25, None,
                                  'sum').isfinite()


def test_others_are_refused_by_name():
    if mmcv_ext.has_compiled():
        pytest.skip('a compiled mmcv is installed here')
    with pytest.raises(NotImplementedError, match="'softnms'.*nms_rotated.*MMCV_WITH_OPS"):
        ops.soft_nms(torch.zeros(1, 4), torch.ones(1))
    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max', True)
