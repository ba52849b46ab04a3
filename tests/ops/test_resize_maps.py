"""Resizing of maps in torch, and the operators' registration."""

import pytest
import torch
import torch.nn.functional as F

from mtp.ops import resize_maps
from mtp.ops.triton.resize_maps import resize_maps as operator
from mtp.ops.triton.resize_maps import resize_maps_backward as backward


@pytest.mark.parametrize('align_corners', [False, True])
def test_is_concatenation_and_sum(align_corners):
    fine, coarse = torch.randn(2, 3, 6, 5), torch.randn(2, 3, 2, 3)
    resized = F.interpolate(coarse, (6, 5), mode='bilinear', align_corners=align_corners)
    settings = dict(align_corners=align_corners)
    joined = resize_maps([fine, coarse], (6, 5), **settings)
    assert joined.equal(torch.cat([fine, resized], 1))
    assert resize_maps([coarse], (6, 5), fine, **settings).equal(fine + resized)


def test_maps_that_do_not_fit_are_refused():
    x = torch.zeros(2, 3, 4, 4)
    for maps, addend in (([x, x[:1]], None), ([x], x[:, :1])):
        with pytest.raises(ValueError, match='give each as many images'):
            resize_maps(maps, (4, 4), addend)


def test_operators_are_registered_rightly():
    maps = [torch.randn(2, 3, 6, 5), torch.randn(2, 2, 3, 2)]
    grad = torch.randn(2, 5, 6, 5)
    learned = [x.requires_grad_() for x in maps]
    for call, arguments in (
        (operator, (learned, 6, 5, None)),
        (operator, (learned[1:], 6, 5, grad[:, :2])),
        (backward, (grad, [3], [2], [3], [2])),
    ):
        torch.library.opcheck(
            call,
            arguments,
            test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
        )
