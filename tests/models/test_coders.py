"""Box coders equal the libraries' they stand in for."""

import math

import pytest
import torch
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from mmdet.structures.bbox import HorizontalBoxes
from mmrotate.models.task_modules import DeltaXYWHTRBBoxCoder, MidpointOffsetCoder
from mmrotate.structures.bbox import RotatedBoxes, rbox2qbox

from mtp.models.tasks import DeltaXYWHCoder, DeltaXYWHTRCoder, MidpointCoder

HORIZONTAL = {'target_means': [0.1, -0.1, 0.0, 0.2], 'target_stds': [0.1, 0.1, 0.2, 0.3]}
ROTATED = {
    'angle_version': 'le90',
    'edge_swap': True,
    'proj_xy': True,
    'target_means': [0.1, -0.1, 0.0, 0.2, 0.1],
    'target_stds': [0.1, 0.1, 0.2, 0.3, 0.1],
}
MIDPOINT = {
    'angle_version': 'le90',
    'target_means': [0.1, -0.1, 0.0, 0.2, 0.0, 0.1],
    'target_stds': [1.0, 1.0, 0.5, 1.0, 0.5, 0.4],
}
PAIRS = [
    (DeltaXYWHCoder, DeltaXYWHBBoxCoder, HORIZONTAL, 4),
    (DeltaXYWHTRCoder, DeltaXYWHTRBBoxCoder, ROTATED, 5),
    (MidpointCoder, MidpointOffsetCoder, MIDPOINT, 6),
]


def horizontal_boxes(*shape):
    top_left, size = torch.rand(*shape, 2) * 400, 4 + torch.rand(*shape, 2) * 90
    return torch.cat([top_left, top_left + size], -1)


def rotated_boxes(*shape):
    """Angles beyond a turn, and every third box upright."""
    boxes = torch.rand(*shape, 5) * torch.tensor([400, 400, 90, 90, 8.0])
    boxes += torch.tensor([0, 0, 4, 4, -4.0])
    boxes[..., ::3, 4] = (boxes[..., ::3, 4] / (math.pi / 2)).round() * (math.pi / 2)
    return boxes


def priors_and_gts(size, *shape):
    priors = rotated_boxes(*shape) if size == 5 else horizontal_boxes(*shape)
    return priors, horizontal_boxes(*shape) if size == 4 else rotated_boxes(*shape)


def assert_same_boxes(boxes, expected, atol=2e-2):
    """Equal as sets of corners: for a square, and at the seam of the angle, names may differ."""
    points, others = (rbox2qbox(part).unflatten(-1, (4, 2)) for part in (boxes, expected))
    distance = torch.cdist(points.double(), others.double())
    assert distance.amin(-1).max() < atol and distance.amin(-2).max() < atol


@pytest.mark.parametrize('ours, theirs, settings, size', PAIRS)
def test_encodes_as_the_library(ours, theirs, settings, size):
    priors, gts = priors_and_gts(size, 300)
    deltas = ours(**settings).encode(priors, gts)
    wrapped = gts if size == 4 else RotatedBoxes(gts)
    expected = theirs(**settings).encode(RotatedBoxes(priors) if size == 5 else priors, wrapped)
    torch.testing.assert_close(deltas, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('max_shape', [None, (300, 350)])
@pytest.mark.parametrize('ours, theirs, settings, size', PAIRS[:2])
def test_decodes_as_the_library(ours, theirs, settings, size, max_shape):
    priors, _ = priors_and_gts(size, 300)
    for classes in (1, 3):
        deltas = torch.randn(300, classes * size) * 4  # some grow beyond the limit
        decoded, expected = (
            coder(**settings, use_box_type=False).decode(priors, deltas, max_shape)
            for coder in (ours, theirs)
        )
        torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-4)


def test_midpoints_decode_as_the_library():
    priors = horizontal_boxes(400)
    deltas = torch.randn(400, 6) * torch.tensor([0.2, 0.2, 0.5, 0.5, 0.6, 0.6])
    deltas[:40, 4:] = 0.0  # a square of a square, else a rhombus drawn out
    deltas[40:80, 4:] = 9.0  # upright
    deltas[80:120, 4:] = torch.tensor([-9.0, 9.0])  # two corners in one place: no width
    priors[100:140, 2:] = priors[100:140, :2] + 20.0
    deltas[100:140, :4] = 0.0
    decoded, expected = (
        coder(**MIDPOINT, use_box_type=False).decode(priors, deltas)
        for coder in (MidpointCoder, MidpointOffsetCoder)
    )
    assert_same_boxes(decoded, expected)
    assert (decoded[:, 2] >= decoded[:, 3]).all()
    assert (decoded[:, 4].abs() <= math.pi / 2 + 1e-6).all()
    # away from squares and from the seam the numbers are equal too
    plain = (expected[:, 2] > 1.05 * expected[:, 3]) & (expected[:, 4].abs() < 1.55)
    assert plain.sum() > 200
    torch.testing.assert_close(decoded[plain], expected[plain], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('ours, theirs, settings, size', PAIRS)
def test_leading_dimensions_and_box_types(ours, theirs, settings, size):
    coder = ours(**settings, use_box_type=False)
    priors, gts = priors_and_gts(size, 2, 3, 5)
    deltas = coder.encode(priors, gts)
    assert deltas.shape == (2, 3, 5, size)
    decoded = coder.decode(priors, deltas, (10**4, 10**4))
    assert decoded.shape == gts.shape
    flat_priors, flat_gts = priors.flatten(0, 2), gts.flatten(0, 2)
    assert torch.equal(coder.encode(flat_priors, flat_gts), deltas.flatten(0, 2))
    assert torch.equal(
        coder.decode(flat_priors, deltas.flatten(0, 2), (10**4, 10**4)), decoded.flatten(0, 2)
    )
    prior_type = RotatedBoxes if size == 5 else HorizontalBoxes
    gt_type = HorizontalBoxes if size == 4 else RotatedBoxes
    typed = ours(**settings, use_box_type=True)
    assert torch.equal(
        typed.encode(prior_type(flat_priors), gt_type(flat_gts)), deltas.flatten(0, 2)
    )
    boxes = typed.decode(prior_type(flat_priors), deltas.flatten(0, 2), (10**4, 10**4))
    assert type(boxes) is gt_type and torch.equal(boxes.tensor, decoded.flatten(0, 2))
    if size > 4:
        assert_same_boxes(decoded.flatten(0, 2), flat_gts)
    else:
        torch.testing.assert_close(decoded, gts, rtol=1e-4, atol=1e-3)
    none = priors[:0, 0, 0], gts[:0, 0, 0]
    assert coder.encode(*none).shape == (0, size)
    assert coder.decode(none[0], deltas[:0, 0, 0], (9, 9)).shape == none[1].shape


@pytest.mark.parametrize('ours, theirs, settings, size', PAIRS)
def test_compiles_without_a_graph_break(ours, theirs, settings, size):
    coder = ours(**settings, use_box_type=False)
    priors, gts = priors_and_gts(size, 2, 6)

    def there_and_back(priors, gts):
        return coder.decode(priors, coder.encode(priors, gts), (300, 350))

    compiled = torch.compile(there_and_back, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(priors, gts), there_and_back(priors, gts))


@pytest.mark.parametrize(
    'coder, settings, name',
    [
        (DeltaXYWHCoder, {'add_ctr_clamp': True}, 'add_ctr_clamp=False'),
        (DeltaXYWHTRCoder, ROTATED | {'angle_version': 'oc'}, "angle_version='le90'"),
        (DeltaXYWHTRCoder, ROTATED | {'edge_swap': False}, 'edge_swap=True'),
        (MidpointCoder, {'angle_version': 'le135'}, "angle_version='le90'"),
    ],
)
def test_unsupported_options(coder, settings, name):
    with pytest.raises(ValueError, match=f'supports only {name}.*use .*Coder'):
        coder(**settings)
