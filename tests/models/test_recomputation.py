"""A step that recomputes results is the same step, and keeps less."""

from copy import deepcopy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.utils import fuse_conv_bn
from mmseg.models import UPerHead

from mtp.models import LeanUPerHead, PerDatasetBatchNorm, recomputation
from mtp.models.batch_norm import set_dataset_sizes
from mtp.models.recomputation import convolve, convolve_recomputed
from tests.models.small import TINY_RVSA, build_model, losses_of, make_sample

HEAD = dict(
    in_channels=[4, 6, 8, 10],
    in_index=[0, 1, 2, 3],
    channels=8,
    pool_scales=(1, 2),
    num_classes=2,
    norm_cfg=dict(type=PerDatasetBatchNorm),
)


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


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(act_cfg=None),
        dict(act_cfg=dict(type='LeakyReLU')),
        dict(norm_cfg=dict(type='BN')),
        dict(norm_cfg=None),
    ],
)
def test_a_convolution_and_its_finish_are_the_module(settings, training):
    torch.manual_seed(0)
    module = ConvModule(3, 4, 1, **{'norm_cfg': dict(type=PerDatasetBatchNorm), **settings})
    set_dataset_sizes(module.train(training), [1, 2])
    modules, x, found = [deepcopy(module) for _ in range(3)], torch.randn(3, 3, 5, 5), []
    for module, (maps, finish) in (
        (modules[0], (modules[0](abs(x)), torch.nn.Identity())),
        (modules[1], convolve(modules[1], abs(x))),
        (modules[2], convolve_recomputed(modules[2], abs, x)),
    ):
        out = finish(maps)
        out.square().sum().backward()
        found.append([out, *(p.grad for p in module.parameters()), *module.buffers()])
    for expected, *others in zip(*found, strict=True):
        assert all(torch.equal(other, expected) for other in others)


def test_the_lean_head_survives_tools_that_replace_norms():
    """They take the norm for torch's, and know nothing of a ReLU in its operator."""
    head = LeanUPerHead(**HEAD).eval()
    for layer in head.modules():
        if isinstance(layer, PerDatasetBatchNorm):
            torch.nn.init.normal_(layer.running_mean)
    maps = [torch.randn(1, c, s, s) for c, s in zip(HEAD['in_channels'], (24, 12, 6, 3))]
    expected = head._forward_feature(maps)
    torch.testing.assert_close(fuse_conv_bn(deepcopy(head))._forward_feature(maps), expected)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(head))
    torch.testing.assert_close(converted._forward_feature(maps), expected)


def test_the_lean_head_is_mmsegs():
    ours, theirs = LeanUPerHead(**HEAD), UPerHead(**HEAD)
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    maps = [
        torch.randn(2, channels, side, side, generator=generator, requires_grad=True)
        for channels, side in zip(HEAD['in_channels'], (24, 12, 6, 3))
    ]
    found = {}
    for head in (ours, theirs):
        out = head.train()._forward_feature(maps)
        gradients = torch.autograd.grad(out.sin().sum(), [*maps, *head.fpn_convs.parameters()])
        found[head] = [out, *gradients, *head.buffers()]
        assert all(torch.equal(a, b) for a, b in zip(found[head], found[ours], strict=True))
