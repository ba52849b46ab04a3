"""A step of a model whose parts are compiled, one by one, against the eager one."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from mtp import fallback
from mtp.engine.compiled_part import CompiledPart
from mtp.engine.hooks import compilation
from mtp.engine.hooks.compilation import CompileHook, compile_parts
from mtp.models.backbones import build_backbone
from tests.models.small import build_model, losses_of, make_sample

SMALL = {
    'vit_tiny_rvsa': dict(embed_dim=48, num_heads=2, depth=6, out_indices=(1, 2, 3, 5)),
    'internimage_pico': dict(depths=(1, 2, 2, 1)),
}


def build(name: str, **settings):
    backbone = dict(type=build_backbone, name=name, img_size=64, **SMALL[name], **settings)
    return build_model(dict(a=dict(num_classes=2)), ('semantic',), backbone).train()


def step(model, seed=0):
    """Total loss and gradients by name."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss, _ = model.parse_losses(
        losses_of(model, [make_sample('a', ('semantic',), seed=seed + i) for i in range(2)])
    )
    loss.backward()
    return loss.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'with_cp'),
    [('vit_tiny_rvsa', False), ('vit_tiny_rvsa', True), ('internimage_pico', True)],
)
def test_compiled_step_equals_eager_and_compiles_once(name, with_cp):
    model = build(name, with_cp=with_cp, drop_path_rate=0.4)
    keys, expected = list(model.state_dict()), [step(model, seed) for seed in range(3)]
    torch._dynamo.reset()
    counters.clear()
    compile_parts(model, 'aot_eager')
    parts = sum(
        isinstance(value, CompiledPart)
        for module in model.modules()
        for value in vars(module).values()
    )
    assert list(model.state_dict()) == keys
    found = [step(model, 0)]
    graphs = counters['stats']['unique_graphs']
    # of window and full attention; of each level
    assert 0 < graphs < parts
    with torch.compiler.set_stance('fail_on_recompile'):
        found += [step(model, seed) for seed in (1, 2)]
    assert counters['stats']['unique_graphs'] == graphs and not counters['graph_break']
    for (loss, gradients), (loss_e, gradients_e) in zip(found, expected):
        torch.testing.assert_close(loss, loss_e)
        assert gradients.keys() == gradients_e.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, gradients_e[key], rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.slow
def test_validation_runs_eagerly_at_any_size():
    model = build('vit_tiny_rvsa')
    hook = CompileHook('on', backend='aot_eager')
    hook.before_train(runner(model))
    assert 'forward' in vars(model.backbone.blocks[0])
    counters.clear()
    hook.before_val(None)
    try:
        with torch.no_grad():
            for size in (64, 96, 80):
                model.backbone(torch.zeros(1, 3, size, size))
    finally:
        hook.after_val(None)
    assert not counters['stats']['unique_graphs']
    model.backbone(torch.zeros(1, 3, 64, 64))
    assert counters['stats']['unique_graphs']


def runner(model):
    return SimpleNamespace(model=model, logger=logging.getLogger(), work_dir='work_dirs/a')


@pytest.mark.parametrize(
    ('mode', 'missing'),
    [
        ('auto', None),  # the model is on the CPU
        ('off', None),
        ('on', 'no compiler'),
    ],
)
def test_model_stays_uncompiled(monkeypatch, mode, missing, caplog):
    monkeypatch.delenv('MTP_STRICT', raising=False)
    monkeypatch.setattr(fallback, '_fallen', {})
    monkeypatch.setattr(compilation, 'what_is_missing', lambda on_gpu: missing)
    model = build('vit_tiny_rvsa')
    CompileHook(mode).before_train(runner(model))
    assert 'forward' not in vars(model.backbone.blocks[0])
    assert fallback.fallen() == ({'torch.compile': missing} if missing else {})
    if missing:
        monkeypatch.setenv('MTP_STRICT', '1')
        with pytest.raises(fallback.FallbackError, match=missing):
            CompileHook(mode).before_train(runner(model))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(compilation.shutil, 'which', lambda name: None)
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.delenv('CXX', raising=False)
    assert 'neither gcc nor clang' in compilation.what_is_missing(on_gpu=True)
    monkeypatch.setenv('CXX', 'c++')
    assert compilation.what_is_missing(on_gpu=False) is None
    monkeypatch.setattr(compilation.importlib.util, 'find_spec', lambda name: None)
    assert 'pip install triton' in compilation.what_is_missing(on_gpu=True)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="'auto', 'on' or 'off'"):
        CompileHook('yes')
