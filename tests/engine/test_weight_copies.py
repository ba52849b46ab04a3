"""Weights cast once for each part of a model: the numbers of autocast, in fewer launches."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mtp.engine import MixedPrecisionOptimWrapper, ReplicatedModel
from mtp.engine.compiled_part import CompiledPart, PartKind
from mtp.models.tasks.two_stage import TwoStageTask
from tests.distributed import run_processes
from tests.models.small import TINY_RVSA, build_model, losses_of, make_sample
from tools.benchmark.counting.launches import LaunchCounter


class ByAutocast(MixedPrecisionOptimWrapper):
    """Mixed precision in which autocast casts every weight, as without copies."""

    def optim_context(self, model):
        autocast = torch.autocast('cpu', torch.bfloat16)
        return autocast if self.enabled else OptimWrapper.optim_context(self, model)

    def backward(self, loss, **kwargs):
        OptimWrapper.backward(self, loss, **kwargs)


def small_model(**backbone):
    return build_model(dict(a=dict(num_classes=2)), backbone=dict(TINY_RVSA, **backbone)).train()


def step(model, kind=MixedPrecisionOptimWrapper):
    """Loss and gradients of a step, and its launches by operator."""
    wrapper = kind(torch.optim.SGD(model.parameters(), 0.1), amp='on')
    samples = [make_sample('a', seed=seed) for seed in (1, 2)]
    with LaunchCounter() as counter:
        with wrapper.optim_context(model):
            loss = model.parse_losses(losses_of(model, samples))[0]
        wrapper.backward(loss)
    launches = {}
    for (operator, _), number in counter.launches.items():
        launches[operator] = launches.get(operator, 0) + number
    gradients = {name: param.grad for name, param in model.named_parameters()}
    return loss.detach(), gradients, launches


@pytest.mark.parametrize('backbone', [{}, {'with_cp': True}, {'frozen_stages': 1}])
def test_a_step_equals_autocasts(backbone, monkeypatch):
    # of cast weights a neck leaves autocast, which would add its maps in float32
    monkeypatch.setattr(TwoStageTask, '_pyramid', lambda task, *args: task.neck(*args))
    loss, gradients, launches = step(small_model(**backbone))
    expected_loss, expected, before = step(small_model(**backbone), ByAutocast)
    assert loss == expected_loss
    for name, gradient in expected.items():
        assert (gradient is None) == (gradients[name] is None), name
        assert gradient is None or torch.equal(gradients[name], gradient), name
    casts = launches['aten::_foreach_copy_']
    assert casts <= 2 * 8  # four blocks, the rest of the backbone, three decoders
    assert before['aten::_to_copy'] - launches['aten::_to_copy'] > 5 * casts


def test_weights_stay_what_they_are_to_everything_else():
    model = small_model()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    wrapper = MixedPrecisionOptimWrapper(torch.optim.SGD(model.parameters(), 0.1), amp='on')
    layer, regressor = model.backbone.blocks[0].attn.qkv, model.backbone.blocks[0].attn
    with pytest.raises(RuntimeError, match='in the forward pass'), wrapper.optim_context(model):
        assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
        assert regressor.sampling_offsets[2].weight.dtype == torch.float32
        found = model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in weights.items())
        assert all(isinstance(param, nn.Parameter) for param in model.parameters())
        raise RuntimeError('in the forward pass')
    assert layer.weight is layer.get_parameter('weight')


@pytest.mark.slow
def test_compiled_parts_take_them_and_compile_once():
    model = build_model(dict(a=dict(num_classes=2)), ('semantic',), dict(TINY_RVSA)).train()
    samples = [make_sample('a', ('semantic',), seed=seed) for seed in (1, 2)]
    wrapper = MixedPrecisionOptimWrapper(torch.optim.SGD(model.parameters(), 0.0), amp='on')
    losses = []
    kind = PartKind('Block.forward', 'aot_eager')
    try:
        for number in range(3):
            with wrapper.optim_context(model):
                losses.append(model.parse_losses(losses_of(model, samples))[0])
            wrapper.backward(losses[-1])
            if number == 0:
                for block in model.backbone.blocks:
                    block.forward = CompiledPart(block.forward, kind)
    finally:
        torch._dynamo.reset()
    # blocks with windows, and with full attention, that the pyramid takes a copy of; the last
    assert len(kind.seconds) == 3
    assert [loss.item() for loss in losses] == pytest.approx([losses[0].item()] * 3, rel=1e-3)


def test_a_neck_runs_without_autocast_once_its_weights_are_cast():
    """CUDA's autocast would add its maps in float32; the CPU's does not."""
    task, enabled = small_model().tasks.instance, []
    task.neck.fpn_convs[0].register_forward_pre_hook(
        lambda *_: enabled.append(torch.is_autocast_enabled('cpu'))
    )
    features = [
        torch.randn(1, channels, side, side, dtype=torch.bfloat16)
        for channels, side in zip(task.neck.in_channels, (16, 8, 4, 2))
    ]
    with torch.autocast('cpu', torch.bfloat16):
        expected = task._pyramid(features, 1)
        for layer in task.neck.modules():
            for name, weight in layer.named_parameters(recurse=False):
                layer.__dict__[name] = weight.bfloat16()
        torch.testing.assert_close(task._pyramid(features, 1), expected, rtol=0.02, atol=0.02)
        assert torch.is_autocast_enabled('cpu')
    assert enabled == [True, False]


class PartlyUsed(nn.Module):
    """Model with a layer that its loss does not use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.ModuleDict({name: nn.Linear(4, 4) for name in ('used', 'unused')})

    def forward(self, x):
        return self.backbone['used'](x).float().square().mean()


def _gradients_of_a_process(rank):
    wrapped = ReplicatedModel(PartlyUsed())
    wrapper = MixedPrecisionOptimWrapper(torch.optim.SGD(wrapped.parameters(), 0.1), amp='on')
    x = torch.linspace(0, 1, 32).view(8, 4)[4 * rank : 4 * rank + 4]
    for _ in range(2):  # DDP learns the graph in the first
        wrapped.zero_grad()
        with wrapper.optim_context(wrapped):
            loss = wrapped(x)
        wrapper.backward(loss)
    return {name: param.grad for name, param in wrapped.module.named_parameters()}


def test_processes_average_their_gradients_and_unused_weights_have_none():
    model = PartlyUsed()
    model(torch.linspace(0, 1, 32).view(8, 4)).backward()
    for found in run_processes(_gradients_of_a_process, 2):
        for name, param in model.named_parameters():
            if 'unused' in name:
                assert found[name] is None
            else:
                torch.testing.assert_close(found[name], param.grad, rtol=0.02, atol=1e-3)
