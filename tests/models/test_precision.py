"""A pretraining step under ``torch.compile`` and in bfloat16, against eager float32."""

import pytest
import torch

from mtp.models.backbones import build_backbone
from tests.models.small import SMALL_BACKBONES, build_model, losses_of, make_sample


@pytest.fixture(scope='module', params=SMALL_BACKBONES)
def model(request):
    backbone = dict(type=build_backbone, name=request.param, img_size=64)
    return build_model(dict(a=dict(num_classes=2)), backbone=backbone).train()


def step(model):
    """The losses of a step by name, and the gradients by parameter."""
    model.zero_grad()
    total, log_vars = model.parse_losses(
        losses_of(model, [make_sample('a', seed=seed) for seed in (1, 2)])
    )
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {key: value.item() for key, value in log_vars.items() if 'acc' not in key}, gradients


@pytest.mark.parametrize(
    ('compiled', 'dtype'),
    [
        (False, torch.bfloat16),
        pytest.param(True, torch.float32, marks=pytest.mark.slow),
        pytest.param(True, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_step_equals_eager_float32(model, compiled, dtype):
    expected, expected_gradients = step(model)
    if compiled:
        model.backbone.compile(backend='aot_eager', fullgraph=True)
    try:
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses, gradients = step(model)
    finally:
        model.backbone._compiled_call_impl = None
    rel, abs_ = (1e-4, 1e-5) if dtype == torch.float32 else (0.05, 0.05)
    assert losses == pytest.approx(expected, rel=rel, abs=abs_)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        if dtype == torch.float32:
            torch.testing.assert_close(
                gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, msg=name
            )
