"""Weights that are cast and turned at once, against torch's own copies."""

import pytest
import torch

from mtp.engine import weight_copies
from mtp.ops import dispatch, lay_out_weights
from tests.models.small import TINY_RVSA, build_model

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# blocks of channels that are not full, one point, more weights than a launch takes
SHAPES = [(3, 130, 3, 3), (2, 5, 2, 2), (4, 128, 1, 5), *31 * [(1, 2, 3, 2)]]


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


@pytest.mark.parametrize('last', [True, False])
@pytest.mark.parametrize(
    'dtypes', [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)]
)
def test_weights_are_torchs(last, dtypes):
    source, wanted = dtypes
    layouts = torch.contiguous_format, torch.channels_last
    # numbers of 8 bits: the interpreter does not round to bfloat16
    weights = [torch.randint(-128, 128, shape, device=DEVICE).to(source) for shape in SHAPES]
    given = [w.contiguous(memory_format=layouts[not last]) for w in weights]
    given[1] = given[1].contiguous(memory_format=layouts[last])  # copied first
    for found, weight in zip(lay_out_weights(given, wanted, last), weights, strict=True):
        assert found.is_contiguous(memory_format=layouts[last])
        torch.testing.assert_close(found, weight.to(wanted), rtol=0, atol=0)


def test_copies_of_convolutions_weights_are_channels_last_and_their_gradients_are_not():
    model = build_model(dict(a=dict(num_classes=2)), backbone=TINY_RVSA).to(DEVICE).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    copies = weight_copies.WeightCopies(model, torch.bfloat16)
    copies.make()
    turned, factors, losses = 0, [], []
    for module, name, copy in copies._copies:
        parameter = module._parameters[name]
        assert copy.equal(parameter.bfloat16())
        if not copy.requires_grad:
            continue
        is_patches = isinstance(module, weight_copies.PatchProjection)
        if copy.dim() == 4 and not is_patches:
            assert copy.is_contiguous(memory_format=torch.channels_last)
            turned += not copy.is_contiguous()
        factors.append((parameter, torch.randn_like(copy)))
        losses.append((copy * factors[-1][1]).sum())
    assert turned > 10
    sum(losses).backward()
    for parameter, factor in factors:
        assert parameter.grad.is_contiguous() and parameter.grad.equal(factor.float())
