"""The kernels of rotated overlaps and NMS against their twins in torch."""
import numpy as np
import pytest
import torch

from mtp.ops import box_iou_rotated, dispatch, nms_rotated
from mtp.ops.rotated_boxes import box_iou_rotated_torch, nms_rotated_torch
from tests.ops.test_rotated_boxes import random_boxes

kernels = pytest.importorskip('mtp.ops.triton.rotated_boxes')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture
def few_programs(monkeypatch):
    """The interpreter is slow by the program, not by the element."""
    monkeypatch.setattr(kernels, '_BLOCK', 64)
    monkeypatch.setattr(kernels, '_ROWS', 64)
    monkeypatch.setattr(kernels, '_iou_block', lambda aligned: (64, 1 if aligned else 64))


def boxes(num, seed=0):
    return random_boxes(num, seed).float().to(DEVICE)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize(('n', 'm'), [(33, 21), (1, 1), (0, 3), (3, 0)])
def test_overlaps(n, m, mode):
    first, second = boxes(n), boxes(m, 1)
    torch.testing.assert_close(kernels.box_iou_rotated(first, second, mode == 'iof', False),
                               box_iou_rotated_torch(first, second, mode, False))
    second = boxes(n, 2)
    torch.testing.assert_close(kernels.box_iou_rotated(first, second, mode == 'iof', True),
                               box_iou_rotated_torch(first, second, mode, True))


def test_extreme_boxes():
    special = torch.tensor([
        [5, 5, 4, 2, .3], [5, 5, 2, 4, .3 + np.pi / 2], [9, 5, 4, 2, 0], [5, 5, 0, 2, 0],
        [5, 5, 0, 0, 0], [5, 5, 50, .01, 100.], [5, 5.004, 50, .01, 100.], [5e4, 5e4, 1e4, .1, 1],
        [-3e6, 2, 1e7, 3, 0], [float('nan'), 5, 4, 2, 0], [5, 5, 4, 2, float('nan')]],
        device=DEVICE)
    overlaps = kernels.box_iou_rotated(special, special, False, False)
    torch.testing.assert_close(overlaps, box_iou_rotated_torch(special, special, 'iou', False))
    assert overlaps[0, 1] == pytest.approx(1) and (overlaps[-2:] == 0).all()


def test_golden(shared, monkeypatch, few_programs):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')
    data = {key: torch.from_numpy(value).to(DEVICE)
            for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()}
    for mode in ('iou', 'iof'):
        pairwise = box_iou_rotated(data['boxes1'], data['boxes2'], mode)
        torch.testing.assert_close(pairwise, data[f'{mode}_pairwise'], atol=1e-4, rtol=0)
    keep = nms_rotated(data['nms_boxes'], data['nms_scores'], 0.3)
    assert torch.equal(keep, data['nms_keep_0.3'])


@pytest.mark.parametrize(('num', 'chunk'), [(150, 64), (150, 192), (64, 64), (1, 64), (0, 64)])
def test_suppression(num, chunk, few_programs):
    some, scores = boxes(num), torch.rand(num, device=DEVICE)
    order = scores.sort(descending=True).indices
    for labels in (None, torch.randint(0, 3, (num,), device=DEVICE)):
        dead = kernels.suppressed(some[order], 0.2, None if labels is None else labels[order],
                                  chunk)
        expected = nms_rotated_torch(some, scores, 0.2, labels)
        assert torch.equal(order[dead == 0], expected)
        assert torch.equal(kernels.nms_rotated(some, scores, 0.2, labels), expected)


def test_a_long_chain_and_equal_boxes(few_programs):
    chain = torch.tensor([[2.0 * i, 0, 3, 3, 0] for i in range(70)], device=DEVICE)
    scores = torch.arange(70, 0, -1, device=DEVICE).float()
    assert kernels.nms_rotated(chain, scores, 0.1, None).tolist() == list(range(0, 70, 2))
    assert kernels.nms_rotated(chain[:1].repeat(70, 1), scores, 0.5, None).tolist() == [0]


def test_nan_scores_and_boxes_end(few_programs):
    some, scores = boxes(9), torch.rand(9, device=DEVICE)
    scores[3] = some[5, 4] = float('nan')
    keep = kernels.nms_rotated(some, scores, 0.1, None)
    assert torch.equal(keep, nms_rotated_torch(some, scores, 0.1, None))
    assert keep[0] == 3 and 5 in keep


def test_nan_is_refused_before_a_kernel_is_launched():
    bad = random_boxes(4).float()
    bad[2, 1] = float('nan')
    for call in (lambda: box_iou_rotated(bad, bad), lambda: nms_rotated(bad, torch.ones(4), 0.5)):
        with pytest.raises(ValueError, match='1 of 4 rotated boxes have NaN, the first in row 2'):
            call()


def test_operators_compile_without_a_break(monkeypatch):
    some = boxes(5)
    compiled = torch.compile(
        lambda a: kernels.box_iou_rotated(a, a, False, False).sum(1), fullgraph=True,
        backend='aot_eager')
    torch.testing.assert_close(compiled(some), box_iou_rotated_torch(some, some, 'iou', False
                                                                     ).sum(1))
    torch.library.opcheck(torch.ops.mtp.nms_rotated.default,
                          (some, torch.rand(5, device=DEVICE), 0.5, None),
                          test_utils=('test_schema', 'test_faketensor'))
