"""The feature pyramid with a compiled top-down path against mmdet's."""

import pytest
import torch
from mmdet.models.necks import FPN

from mtp.models import LeanFPN

CHANNELS = [8, 16, 24, 32]


@pytest.mark.parametrize('sizes', [(16, 8, 4, 2), (13, 7, 4, 2)])
@pytest.mark.parametrize('compiled', [False, True])
def test_maps_and_gradients_are_mmdets(sizes, compiled):
    ours, theirs = (kind(CHANNELS, out_channels=8, num_outs=5) for kind in (LeanFPN, FPN))
    theirs.load_state_dict(ours.state_dict())
    if compiled:
        ours.top_down = torch.compile(ours.top_down, fullgraph=True, backend='aot_eager')
    found = []
    for neck in (ours, theirs):
        torch.manual_seed(0)
        inputs = [torch.randn(2, c, n, n + 1, requires_grad=True) for c, n in zip(CHANNELS, sizes)]
        maps = neck(inputs)
        loss = sum((m * torch.randn_like(m)).sum() for m in maps)
        found.append([*maps, *torch.autograd.grad(loss, [*inputs, *neck.parameters()])])
    torch.testing.assert_close(*found)


def test_each_consumer_gets_the_maps_of_the_levels_asked_for():
    neck = LeanFPN(CHANNELS, out_channels=8, num_outs=5, start_level=1)
    inputs = [torch.randn(2, c, n, n) for c, n in zip(CHANNELS, (16, 8, 4, 3))]
    first, second = neck(inputs, 2)
    assert [tuple(x.shape[2:]) for x in first] == [(8, 8), (4, 4), (3, 3), (2, 2), (1, 1)]
    torch.testing.assert_close([*first], [*second], rtol=0, atol=0)
    learned = [*neck.parameters()]
    found = torch.autograd.grad(sum(x.sin().sum() for own in (first, second) for x in own), learned)
    wanted = torch.autograd.grad(2 * sum(x.sin().sum() for x in neck(inputs)), learned)
    torch.testing.assert_close(found, wanted)


def test_the_neck_can_be_exported():
    neck = LeanFPN(CHANNELS, out_channels=8, num_outs=5).eval()
    inputs = tuple(torch.randn(2, c, n, n) for c, n in zip(CHANNELS, (16, 8, 4, 2)))
    with torch.no_grad():
        found = torch.export.export(neck, (inputs,)).module()(inputs)
        torch.testing.assert_close(found, neck(inputs))


@pytest.mark.parametrize(
    'options', [dict(add_extra_convs='on_input'), dict(norm_cfg=dict(type='BN'))]
)
def test_what_is_no_bias_after_a_convolution_is_refused(options):
    with pytest.raises(ValueError, match='use FPN'):
        LeanFPN(CHANNELS, out_channels=8, num_outs=5, **options)
