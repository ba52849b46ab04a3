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


def test_further_convolutions_are_refused():
    with pytest.raises(ValueError, match='use FPN'):
        LeanFPN(CHANNELS, out_channels=8, num_outs=5, add_extra_convs='on_input')
