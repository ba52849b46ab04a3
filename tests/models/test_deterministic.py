"""A training step on a GPU under deterministic algorithms, without a GPU: on tensors of ``meta``.

There torch asks the questions that it asks for a GPU's tensors, and computes nothing.
"""

import pytest
import torch
from torch import Tensor, nn

from mtp.engine.static_batch import StaticBatch
from mtp.models.backbones import build_backbone
from mtp.ops import dispatch
from mtp.ops.deterministic import replace_pools
from mtp.sample_fields import pack_batch
from tests.models.small import build_model, make_sample
from tests.ops.test_deterministic import Operators

# torch 2.11 raises for these on CUDA: the list in the docstring of use_deterministic_algorithms,
# nll_loss2d aside, which torch refuses only where it reduces
REFUSED = {
    '_adaptive_avg_pool2d_backward', '_adaptive_avg_pool3d_backward', '_ctc_loss_backward',
    'adaptive_max_pool2d_backward', 'adaptive_max_pool3d_backward', 'avg_pool3d_backward',
    'cudnn_grid_sampler_backward', 'fractional_max_pool2d_backward',
    'fractional_max_pool3d_backward', 'grid_sampler_2d_backward', 'grid_sampler_3d_backward',
    'histc', 'max_pool3d_with_indices_backward', 'max_unpool2d', 'max_unpool3d', 'median', 'put_',
    'reflection_pad1d_backward', 'reflection_pad2d_backward', 'reflection_pad3d_backward',
    'upsample_bicubic2d_backward', 'upsample_bilinear2d_backward', 'upsample_linear1d_backward',
    'upsample_trilinear3d_backward',
    '_roi_align_backward',  # torchvision
}  # fmt: skip


BACKBONES = {
    'vit': (
        dict(type=build_backbone, name='vit_tiny_rvsa', img_size=128),
        {'rotated_window_attention_backward'},
    ),
    'internimage': (dict(type=build_backbone, name='internimage_pico'), {'dcnv3_backward'}),
}


class Refused(Operators):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        name = func.overloadpacket.__name__
        if (
            name == 'nll_loss2d_forward'
            and args[3] != 0
            or (name == 'cumsum' and args[0].is_floating_point())
        ):
            self.names.add('refused: ' + name)
        return result

    def refused(self):
        return {name for name in self.names if name in REFUSED or name.startswith('refused')}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(dispatch, '_reason_against', lambda *_: None)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)  # no look at values
    monkeypatch.setattr(Tensor, 'pin_memory', lambda tensor: tensor)
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda *_: False)  # meta tensors know none


def step(backbone):
    """Operators of a step: images of another size than the positions, so that those are resized."""
    model = build_model(dict(a=dict(num_classes=2)), backbone=backbone)
    inputs, samples = zip(*(make_sample('a', seed=seed) for seed in (1, 2)))
    batch = pack_batch([dict(inputs=i, data_samples=s) for i, s in zip(inputs, samples)])
    if torch.are_deterministic_algorithms_enabled():
        replace_pools(model)
    model = model.to('meta').train()
    batch = StaticBatch(batch, torch.device('meta')).content
    data = model.data_preprocessor(batch, training=True)
    with Refused() as operators:
        model.parse_losses(model(**data, mode='loss'))[0].backward()
    return operators


@pytest.mark.usefixtures('as_on_a_gpu', 'deterministic')
@pytest.mark.parametrize('name', list(BACKBONES))
def test_no_operator_is_left_that_torch_refuses(name):
    backbone, kernels = BACKBONES[name]
    operators = step(backbone)
    assert not operators.refused()
    # of these the implementation chooses the form when it runs
    assert kernels | {'roi_align_levels_backward'} <= operators.names


@pytest.mark.usefixtures('as_on_a_gpu')
def test_by_default_torchs_own_run():
    assert {
        'upsample_bicubic2d_backward',
        'upsample_bilinear2d_backward',
    } <= step(BACKBONES['vit'][0]).refused()


def test_only_pools_that_torch_refuses_are_exchanged():
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Sequential(nn.AdaptiveAvgPool2d((2, None))), nn.AvgPool2d(2)
    )
    image = torch.randn(2, 3, 8, 8)
    expected, names = model(image), list(model.state_dict())
    replace_pools(model)
    assert [type(module).__module__ for module in (model[0], model[1][0])] == [
        'mtp.ops.deterministic'
    ] * 2
    assert type(model[2]) is nn.AvgPool2d and list(model.state_dict()) == names
    assert torch.equal(model(image), expected)
