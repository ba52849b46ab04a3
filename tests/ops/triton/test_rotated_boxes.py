"""The kernels of rotated boxes against their twins in torch and recorded overlaps."""

import math

import numpy as np
import pytest
import torch

from mtp.ops import box_iou_rotated, dispatch, nms_rotated
from mtp.ops.rotated_boxes import box_iou_rotated_torch, kept_rotated_torch
from tests.ops.test_rotated_boxes import SPECIAL_PAIRS, random_boxes

kernels = pytest.importorskip('mtp.ops.triton.rotated_boxes')
nms = pytest.importorskip('mtp.ops.triton.rotated_nms')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
NAN, INF = math.nan, math.inf
# the interpreter's numpy tells of numbers that a GPU passes over, and the kernels too
pytestmark = pytest.mark.filterwarnings('ignore:(invalid|divide|overflow):RuntimeWarning')


@pytest.fixture(autouse=True)
def _kernel(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


@pytest.fixture
def large_tiles(monkeypatch):
    """Fewer programs and steps, each of which costs the interpreter some milliseconds."""
    if DEVICE == 'cpu':
        for module in (kernels, nms):
            monkeypatch.setattr(module, 'ROWS', 64)
            monkeypatch.setattr(module, 'STEP', 64)
        monkeypatch.setattr(nms, 'CHUNK', 512)


def boxes_of(num, seed=0, size=100.0):
    return random_boxes(num, seed, size).float().to(DEVICE)


def assert_equal_to_twin(boxes1, boxes2, atol=1e-5):
    for mode in ('iou', 'iof'):
        for aligned in (False, True) if boxes1.shape == boxes2.shape else (False,):
            overlaps = kernels.box_iou_rotated(boxes1, boxes2, mode, aligned)
            assert overlaps.dtype == torch.float32
            torch.testing.assert_close(
                overlaps, box_iou_rotated_torch(boxes1, boxes2, mode, aligned), atol=atol, rtol=0
            )


def assert_keeps_as_twin(boxes, scores, threshold, labels=None):
    """Through the public function, and the number kept."""
    keep = nms_rotated(boxes, scores, threshold, labels)
    order = scores.sort(descending=True).indices
    labels = None if labels is None else labels[order]
    expected = order[kept_rotated_torch(boxes[order], threshold, labels)]
    assert keep.tolist() == expected.tolist()
    return len(keep)


@pytest.mark.usefixtures('large_tiles')
def test_golden(shared):
    data = {
        key: torch.from_numpy(value).to(DEVICE)
        for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()
    }
    boxes1, boxes2 = data['boxes1'], data['boxes2']
    for mode in ('iou', 'iof'):
        torch.testing.assert_close(
            box_iou_rotated(boxes1, boxes2, mode), data[f'{mode}_pairwise'], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            box_iou_rotated(boxes1[: len(boxes2)], boxes2, mode, True),
            data[f'{mode}_aligned'],
            atol=1e-4,
            rtol=0,
        )
    for threshold in (0.1, 0.5):
        keep = nms_rotated(data['nms_boxes'], data['nms_scores'], threshold)
        assert torch.equal(keep, data[f'nms_keep_{threshold}'])


# As launched: a row at a time, tiles that stick out, and one box.
@pytest.mark.parametrize('num1, num2', [(33, 1), (2, 33), (3, 3)])
def test_tiles(num1, num2):
    assert_equal_to_twin(boxes_of(num1), boxes_of(num2, 1))


@pytest.mark.usefixtures('large_tiles')
def test_images_are_compared_one_by_one():
    boxes1, boxes2 = boxes_of(2 * 65, size=40.0).view(2, 65, 5), boxes_of(10, 1).view(2, 5, 5)
    assert_equal_to_twin(boxes1, boxes2)
    assert all(image.any() for image in box_iou_rotated(boxes1, boxes2))
    assert kernels.box_iou_rotated(boxes1[:0], boxes2[:0], 'iou', False).shape == (0, 65, 5)
    assert kernels.box_iou_rotated(boxes1, boxes2[:, :0], 'iou', False).shape == (2, 65, 0)
    torch.library.opcheck(kernels.box_iou_rotated, (boxes1, boxes2, 'iou', False))


@pytest.mark.usefixtures('large_tiles')
def test_special_pairs():
    first, second, expected = zip(*SPECIAL_PAIRS)
    first, second = (torch.tensor(boxes, device=DEVICE) for boxes in (first, second))
    assert_equal_to_twin(first, second)
    aligned = box_iou_rotated(first, second, aligned=True)
    for iou in (aligned, box_iou_rotated(second, first).diagonal()):
        torch.testing.assert_close(iou, torch.tensor(expected, device=DEVICE), atol=1e-5, rtol=0)


@pytest.mark.usefixtures('large_tiles')
def test_extreme_sizes_and_angles():
    """Sides from 0.01 to 1000 pixels, turned many times: float32 alone is wrong by up to 5e-4."""
    boxes = boxes_of(80, size=20.0)
    sides = 10 ** (5 * torch.rand(80, 2) - 2)
    sides[:20] = torch.tensor([0.01, 50.0])
    boxes[:, 2:4] = sides.to(DEVICE)
    boxes[10:20] = boxes[:10] + torch.tensor([2e-3, 1e-3, 0, 0, 1e-5], device=DEVICE)
    assert (box_iou_rotated(boxes[:10], boxes[10:20], aligned=True) > 0.1).sum() > 3
    boxes[40:60, 4] *= 1e4
    boxes[60:, :2] += 1e5
    assert_equal_to_twin(boxes, boxes.flip(0))


@pytest.mark.usefixtures('large_tiles')
def test_nan_and_infinite_boxes_overlap_nothing():
    """Where nobody has looked for them, as on CUDA."""
    boxes = torch.tensor([[5.0, 5, 4, 2, 0.3]] * 12, device=DEVICE)
    for column in range(5):
        boxes[column, column], boxes[column + 5, column] = NAN, INF
    boxes[10:, 2:4] = 1e25  # too large for areas in float32, but whole
    assert_equal_to_twin(boxes, boxes)
    expected = torch.zeros(12, 12, device=DEVICE)
    expected[10:, 10:] = 1
    assert torch.equal(kernels.box_iou_rotated(boxes, boxes, 'iou', False), expected)
    for kept in (nms.kept_rotated, kept_rotated_torch):
        assert kept(boxes, 0.5, None).tolist() == [True] * 11 + [False]


@pytest.mark.usefixtures('large_tiles')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_and_views(dtype):
    boxes = boxes_of(40).to(dtype)
    exact = box_iou_rotated_torch(boxes.float(), boxes.float(), 'iou', False)
    torch.testing.assert_close(box_iou_rotated(boxes, boxes), exact, atol=1e-5, rtol=0)
    scored = torch.cat([boxes, boxes[:, :1]], 1)
    assert torch.equal(box_iou_rotated(scored[:, :5], boxes), box_iou_rotated(boxes, boxes))


@pytest.mark.usefixtures('large_tiles')
@pytest.mark.parametrize('num, chunk', [(64, 64), (65, 64), (150, 64), (200, 128)])
def test_nms_across_chunks(num, chunk, monkeypatch):
    monkeypatch.setattr(nms, 'CHUNK', chunk)
    boxes, scores = boxes_of(num), torch.rand(num, device=DEVICE)
    labels = torch.randint(3, (num,), device=DEVICE)
    number = assert_keeps_as_twin(boxes, scores, 0.02)
    assert 4 < number < assert_keeps_as_twin(boxes, scores, 0.02, labels) < num
    assert_keeps_as_twin(boxes, scores, 0.5, labels.float())


@pytest.mark.parametrize('num', [0, 1, 34])
def test_nms_as_launched(num):
    assert_keeps_as_twin(boxes_of(num), torch.rand(num, device=DEVICE), 0.1)


@pytest.mark.usefixtures('large_tiles')
def test_nms_of_chains_copies_and_nan_scores(monkeypatch):
    monkeypatch.setattr(nms, 'CHUNK', 64)
    # each box overlaps only its neighbours, over the blocks' borders too
    chain = torch.tensor([[2.0 * i, 0, 3, 3, 0] for i in range(150)], device=DEVICE)
    falling = torch.arange(150, 0, -1.0, device=DEVICE)
    assert nms_rotated(chain, falling, 0.1).tolist() == list(range(0, 150, 2))
    copies = chain[:1].repeat(150, 1)
    assert nms_rotated(copies, falling, 0.9).tolist() == [0]
    assert len(nms_rotated(copies, torch.ones_like(falling), 0.9)) == 1
    falling[7::9] = NAN
    assert_keeps_as_twin(chain, falling, 0.1)
    assert falling[nms_rotated(copies, falling, 0.1)].isnan().tolist() == [True]
    assert_keeps_as_twin(boxes_of(150), torch.full_like(falling, NAN), 0.1)


@pytest.mark.usefixtures('large_tiles')
def test_nms_decides_at_the_threshold_as_float64():
    """Every pair overlaps by 1/3 and less than a rounding unit of float32 more or less."""
    boxes = torch.tensor(
        [[100 * i + 2 * j, 5, 4, 2, 1e-8 * i] for i in range(30) for j in (0, 1)],
        dtype=torch.float32,
        device=DEVICE,
    )
    iou = box_iou_rotated_torch(boxes[::2].double(), boxes[1::2].double(), 'iou', True)
    threshold = iou.median().item()
    assert 0 < (iou - threshold).abs().max() < 1e-7
    keep = nms.kept_rotated(boxes, threshold, None)
    assert 30 < keep.sum() < 60
    assert torch.equal(keep, kept_rotated_torch(boxes, threshold, None))


@pytest.mark.usefixtures('large_tiles')
def test_operators_are_registered_and_compile():
    boxes1, boxes2 = boxes_of(3), boxes_of(4, 1)
    torch.library.opcheck(kernels.box_iou_rotated, (boxes1, boxes2, 'iou', False))
    torch.library.opcheck(nms.kept_rotated, (boxes1, 0.5, torch.arange(3, device=DEVICE)))

    def function(boxes1, boxes2):
        return box_iou_rotated(boxes1, boxes2) + box_iou_rotated(boxes1, boxes2, 'iof')

    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    assert torch.equal(compiled(boxes1, boxes2), function(boxes1, boxes2))
    # the number of kept boxes is unknown to the graph
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        keep = torch.compile(nms_rotated, fullgraph=True, backend='aot_eager')(
            boxes2, torch.arange(4.0, device=DEVICE), 0.1
        )
    assert torch.equal(keep, nms_rotated(boxes2, torch.arange(4.0, device=DEVICE), 0.1))
