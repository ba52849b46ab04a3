"""The kernels of horizontal NMS against torchvision."""

import math

import pytest
import torch

from mtp.ops import dispatch, kept_horizontal
from mtp.ops.horizontal_nms import kept_horizontal_torch
from tests.ops.test_horizontal_nms import groups_of_boxes

kernels = pytest.importorskip('mtp.ops.triton.horizontal_nms')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.filterwarnings('ignore:(invalid|divide):RuntimeWarning')


@pytest.fixture(autouse=True)
def _kernel(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


@pytest.fixture
def few_words(monkeypatch):
    """No more than the boxes need, each of which costs the interpreter time."""
    monkeypatch.setattr(kernels, 'FEWEST_WORDS', 1)


def assert_keeps_as_torchvision(boxes, valid, threshold):
    """On the CPU: with the threshold in float64. The flags."""
    keep = kept_horizontal(boxes.to(DEVICE), valid.to(DEVICE), threshold).cpu()
    assert torch.equal(keep, kept_horizontal_torch(boxes.float(), valid, threshold))
    return keep


@pytest.mark.usefixtures('few_words')
@pytest.mark.parametrize('groups, num', [(1, 1), (3, 63), (2, 64), (2, 65), (2, 150)])
def test_keeps_as_torchvision(groups, num):
    boxes, valid = groups_of_boxes(groups, num, size=60.0), torch.rand(groups, num) > 0.2
    for threshold in (0.05, 0.6):
        assert_keeps_as_torchvision(boxes, valid, threshold)
    assert_keeps_as_torchvision(boxes, torch.ones_like(valid), 0.3)
    assert not assert_keeps_as_torchvision(boxes, torch.zeros_like(valid), 0.3).any()


@pytest.mark.parametrize('num', [0, 70])
def test_as_launched(num):
    assert_keeps_as_torchvision(groups_of_boxes(2, num, size=60.0), torch.rand(2, num) > 0.2, 0.2)


@pytest.mark.usefixtures('few_words')
def test_chains_copies_and_degenerate_boxes():
    # each box overlaps only its neighbours, over the blocks' borders too
    left = 2.0 * torch.arange(150)
    chain = torch.stack([left, left * 0, left + 3, left * 0 + 3], 1)
    copies = chain[:1].repeat(150, 1)
    points = torch.cat([chain[:, :2], chain[:, :2]], 1)
    boxes = torch.stack([chain, copies, points])
    valid = torch.ones(3, 150, dtype=torch.bool)
    valid[1, :3] = False
    keep = assert_keeps_as_torchvision(boxes, valid, 0.1)
    assert keep[0].nonzero().squeeze(1).tolist() == list(range(0, 150, 2))
    assert keep[1].nonzero().squeeze(1).tolist() == [3]
    assert keep[2].all()
    boxes[0, ::7, 2], boxes[1, ::5] = math.inf, math.nan
    assert_keeps_as_torchvision(boxes[:1], valid[:1], 0.1)
    invalid = valid & ~boxes.isnan().any(2)
    assert_keeps_as_torchvision(boxes, invalid, 0.1)


@pytest.mark.usefixtures('few_words')
def test_decides_at_the_threshold_as_torchvision():
    """Overlaps that are the threshold, but for rounding to float32 up (0.8) or down (0.7)."""
    for threshold in (0.7, 0.8, 0.5):
        first = torch.tensor([0.0, 0, 10, 10])
        boxes = torch.stack(
            [
                torch.stack([first * k, first * k * torch.tensor([1, 1, threshold, 1])])
                for k in (1, 3, 0.3)
            ]
        )
        assert_keeps_as_torchvision(boxes, torch.ones(3, 2, dtype=torch.bool), threshold)


@pytest.mark.usefixtures('few_words')
def test_low_precision_and_views():
    wide = torch.cat([groups_of_boxes(2, 40), torch.zeros(2, 40, 1)], 2)
    valid = torch.rand(40, 2) > 0.2
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert_keeps_as_torchvision(wide.to(dtype)[..., :4], valid.t(), 0.2)


def test_operator_is_registered_and_compiles():
    boxes, valid = groups_of_boxes(2, 5).to(DEVICE), torch.ones(2, 5, dtype=torch.bool).to(DEVICE)
    torch.library.opcheck(kernels.kept_horizontal, (boxes, valid, 0.5))
    compiled = torch.compile(kept_horizontal, fullgraph=True, backend='aot_eager')
    assert torch.equal(compiled(boxes, valid, 0.5), kept_horizontal(boxes, valid, 0.5))
