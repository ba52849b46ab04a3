"""A step that recomputes results is the same step, and keeps less."""

import pytest
import torch
from mmseg.models import UPerHead

from mtp.models import LeanUPerHead, PerDatasetBatchNorm, recomputation
from tests.models.small import TINY_RVSA, build_model, losses_of, make_sample


def step(model, amp):
    """Gradients and buffers after a step, and bytes that its forward pass keeps."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    torch.manual_seed(1)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast('cpu', torch.bfloat16, enabled=amp):
        total, _ = model.parse_losses(
            losses_of(model, [make_sample('a', seed=seed) for seed in (1, 2)])
        )
    total.backward()
    found = {f'gradient of {name}': p.grad for name, p in model.named_parameters()}
    return found | dict(model.named_buffers()), sum(s.nbytes() for s in storages.values())


@pytest.mark.parametrize('amp', [False, True])
def test_a_step_gives_the_same_to_the_last_digit_and_keeps_less(amp, monkeypatch):
    def model():
        return build_model(dict(a=dict(num_classes=2)), backbone=TINY_RVSA).train()

    found, kept = step(model(), amp)
    monkeypatch.setattr(recomputation, 'checkpoint', lambda call, *inputs, **_: call(*inputs))
    expected, more = step(model(), amp)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value is found[name] is None or torch.equal(found[name], value), name
    assert kept < 0.8 * more


def test_the_lean_head_is_mmsegs():
    settings = dict(
        in_channels=[4, 6, 8, 10],
        in_index=[0, 1, 2, 3],
        channels=8,
        pool_scales=(1, 2),
        num_classes=2,
        norm_cfg=dict(type=PerDatasetBatchNorm),
    )
    ours, theirs = LeanUPerHead(**settings), UPerHead(**settings)
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    maps = [
        torch.randn(2, channels, side, side, generator=generator, requires_grad=True)
        for channels, side in zip(settings['in_channels'], (24, 12, 6, 3))
    ]
    found = {}
    for head in (ours, theirs):
        out = head.train()._forward_feature(maps)
        gradients = torch.autograd.grad(out.sin().sum(), [*maps, *head.fpn_convs.parameters()])
        found[head] = [out, *gradients, *head.buffers()]
        assert all(torch.equal(a, b) for a, b in zip(found[head], found[ours], strict=True))
