"""``mmcv.ops`` on the portable extension."""

import numpy as np
import pytest
import torch
from mmcv import ops
from mmcv.ops.focal_loss import SigmoidFocalLossFunction

from mtp.ops import mmcv_ext, sigmoid_focal_loss
from tools.benchmark.counting.opened_launches import opened_launches


@pytest.fixture(scope='module')
def golden(shared):
    return {
        key: torch.from_numpy(value)
        for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()
    }


def test_rotated_nms(golden):
    for threshold in (0.1, 0.3, 0.5, 0.8):
        boxes, scores = golden['nms_boxes'], golden['nms_scores']
        dets, keep = ops.nms_rotated(boxes, scores, threshold)
        assert torch.equal(keep, golden[f'nms_keep_{threshold}'])
        assert torch.equal(dets, torch.cat([boxes[keep], scores[keep, None]], 1))
        keep = ops.nms_rotated(boxes, scores, threshold, golden['nms_labels'])[1]
        assert torch.equal(keep, golden[f'nms_class_keep_{threshold}'])
    dets, keep = ops.batched_nms(
        golden['nms_boxes'],
        golden['nms_scores'],
        golden['nms_labels'],
        {'type': 'nms_rotated', 'iou_threshold': 0.1},
    )
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


def test_overlaps_of_boxes_with_scores():
    """mmrotate's evaluation passes detections with their score as a sixth column."""
    boxes = torch.tensor([[5.0, 5, 4, 2, 0.3], [6, 5, 4, 2, 0.3]])
    scored = torch.cat([boxes, torch.tensor([[0.9], [0.8]])], 1)
    assert torch.equal(ops.box_iou_rotated(scored, boxes), ops.box_iou_rotated(boxes, boxes))


def test_horizontal_nms_with_offset():
    """With offset 1 a box covers its last pixel too: these overlap by 1 of 3 columns."""
    boxes = torch.tensor([[0.0, 0, 1, 9], [1, 0, 2, 9]])
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.2, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.2, offset=1)[1]) == 1


@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
def test_focal_loss(reduction):
    """Of mmcv's function on the substitute, of the operator in its place, and by definition."""
    logits = torch.randn(6, 3, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 0, 2])  # 3 is background
    weight = torch.tensor([0.5, 2.0, 1.0])
    plain = sigmoid_focal_loss(logits, target, 1.5, 0.3, weight)
    expected = {'none': plain, 'sum': plain.sum(), 'mean': plain.sum() / 6}[reduction]
    grad = torch.autograd.grad(expected.sum(), logits)
    assert ops.sigmoid_focal_loss is mmcv_ext.reduced_focal_loss
    for function in (SigmoidFocalLossFunction.apply, ops.sigmoid_focal_loss):
        loss = function(logits, target, 1.5, 0.3, weight, reduction)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits), grad)


@pytest.mark.parametrize(
    ('function', 'launches'),
    [
        (ops.sigmoid_focal_loss, 2),
        (SigmoidFocalLossFunction.apply, 7),  # when this fails, see whether compat's may go
    ],
)
def test_launches_of_the_focal_loss_and_its_gradient(function, launches):
    logits, target = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 3, 0, 2])
    with opened_launches() as counter:
        loss = function(logits, target, 2.0, 0.25, None, 'none')
    cotangent = torch.ones_like(loss)
    with opened_launches() as backward:
        loss.backward(cotangent)
    assert counter.launches.total() + backward.launches.total() == launches


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_features(dtype):
    """As under autocast: features of low precision, boxes in float32."""
    for layer, roi in (
        (ops.RoIAlign(3, 1.0, 2), [[0, 1.0, 1, 6, 5]]),
        (ops.RoIAlignRotated(3, 1.0, 2), [[0, 4.0, 4, 5, 3, 0.4]]),
    ):
        features = torch.randn(1, 2, 8, 8).to(dtype).requires_grad_()
        out = layer(features, torch.tensor(roi))
        assert out.dtype == dtype
        expected = layer(features.detach().float(), torch.tensor(roi))
        torch.testing.assert_close(out.float(), expected, atol=1e-2, rtol=1e-2)
        out.sum().backward()
        torch.testing.assert_close(
            features.grad.float().sum(), torch.tensor(18.0), atol=0.2, rtol=0
        )


def test_no_boxes():
    for layer, width in ((ops.RoIAlign(3, 1.0, 2), 5), (ops.RoIAlignRotated(3, 1.0, 2), 6)):
        features = torch.randn(1, 2, 8, 8, requires_grad=True)
        out = layer(features, torch.zeros(0, width))
        assert out.shape == (0, 2, 3, 3)
        out.sum().backward()
        assert not features.grad.any()
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    assert ops.box_iou_rotated(torch.zeros(0, 5), torch.zeros(3, 5)).shape == (0, 3)


def test_horizontal_nms_keeps_double_precision():
    boxes = torch.tensor([[0, 0, 1e8, 1], [1, 0, 1e8 + 1, 1]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8], dtype=torch.float64)
    assert ops.nms(boxes, scores, 1 - 1e-8)[1].tolist() == [0, 1]  # IoU 1 - 2e-8


def test_others_are_refused_by_name():
    if mmcv_ext.has_compiled():
        pytest.skip('a compiled mmcv is installed here')
    with pytest.raises(NotImplementedError, match="'softnms'.*nms_rotated.*MMCV_WITH_OPS"):
        ops.soft_nms(torch.zeros(1, 4), torch.ones(1))
    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max', True)
