"""Layer-wise learning rate decay: the official groups, and resuming."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mtp.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mtp.models.backbones import build_backbone

LR, WEIGHT_DECAY = 6e-5, 0.05


class Model(nn.Module):
    """A backbone under any name and a small head."""

    def __init__(self, name: str = 'backbone', **overrides) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.add_module(
            name,
            build_backbone(
                'vit_tiny_rvsa', **{'img_size': 64, 'embed_dim': 16, 'num_heads': 2, **overrides}
            ),
        )


def _build(model: nn.Module, rate: float = 0.9, lr: float = LR) -> OptimWrapper:
    constructor = LayerDecayOptimWrapperConstructor(
        {'optimizer': {'type': 'AdamW', 'lr': lr, 'weight_decay': WEIGHT_DECAY}},
        {'layer_decay_rate': rate},
    )
    return constructor(model)


def _settings(model: nn.Module, wrapper: OptimWrapper) -> dict[str, tuple[float, float]]:
    names = {param: name for name, param in model.named_parameters()}
    settings = {}
    for group in wrapper.optimizer.param_groups:
        for param in group['params']:
            assert names[param] not in settings
            settings[names[param]] = group['lr'], group['weight_decay']
    return settings


def _with_head(called: str, shapes: dict[str, tuple[int, ...]], backbone: dict) -> nn.Module:
    """A backbone so ``called``, with parameters of the given names and shapes beside it."""
    with torch.device('meta'):
        model = nn.Module()
        model.add_module(called, build_backbone(**backbone))
        for path, shape in shapes.items():
            *parents, leaf = path.split('.')
            module = model
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = getattr(module, parent)
            module.register_parameter(leaf, nn.Parameter(torch.empty(shape)))
    return model


FINETUNE_VIT = dict(name='vit_b_rvsa', img_size=384, final_norm=False)
PRETRAIN_VIT = dict(name='vit_b_rvsa', img_size=448)
INTERNIMAGE = dict(name='internimage_xl')


def _official(shared: Path, file: str) -> tuple[dict, dict[str, tuple[float, float]]]:
    """An official constructor's record, and parameter -> learning rate, weight decay."""
    golden = json.loads((shared / 'golden' / 'optim' / f'{file}.json').read_text())
    return golden, {
        name: (group['lr'], group['weight_decay'])
        for group in golden['groups']
        for name in group['params']
    }


def _ours(shared: Path, file: str, called: str, backbone: dict) -> tuple[OptimWrapper, dict]:
    golden, official = _official(shared, file)
    # of a finetuning head only the names, and by them whether one dimension or more, are recorded
    heads = {
        name: (2,) if decay == 0 else (2, 2)
        for name, (_, decay) in official.items()
        if not name.startswith(f'{called}.')
    }
    if called == 'encoder':
        keys = json.loads(
            (shared / 'golden' / 'keys' / f'mtp_{backbone["name"]}_448.json').read_text()
        )['keys']
        heads = {
            name: tuple(int(n) for n in keys[name].rstrip(']').split('[')[1].split(','))
            for name in heads
        }
    model = _with_head(called, heads, backbone)
    wrapper = _build(model, golden['settings']['layer_decay_rate'], golden['base_lr'])
    return wrapper, _settings(model, wrapper)


@pytest.mark.parametrize(
    ('file', 'called', 'backbone'),
    [
        ('finetune_vit_b', 'backbone', FINETUNE_VIT),
        ('mtp_pretrain_internimage_xl', 'encoder', INTERNIMAGE),
    ],
)
def test_groups_equal_the_official_ones(
    shared: Path, file: str, called: str, backbone: dict
) -> None:
    golden, expected = _official(shared, file)
    wrapper, settings = _ours(shared, file, called, backbone)
    assert settings.keys() == expected.keys()
    for name, values in expected.items():
        assert settings[name] == pytest.approx(values, rel=1e-9), name
    assert len(wrapper.optimizer.param_groups) == len(golden['groups'])


@pytest.mark.parametrize(
    ('file', 'called', 'backbone', 'intended', 'called_there'),
    [
        ('mtp_pretrain_vit_b', 'encoder', PRETRAIN_VIT, 'finetune_vit_b', 'backbone'),
        (
            'finetune_internimage_xl',
            'backbone',
            INTERNIMAGE,
            'mtp_pretrain_internimage_xl',
            'encoder',
        ),
    ],
)
def test_the_rule_acts_where_the_released_one_misses_the_backbone(
    shared: Path, file: str, called: str, backbone: dict, intended: str, called_there: str
) -> None:
    """Weight decay as recorded, the backbone's rates as recorded under its other name."""
    golden, recorded = _official(shared, file)
    rates = {
        name.replace(f'{called_there}.', f'{called}.', 1): lr
        for name, (lr, _) in _official(shared, intended)[1].items()
        if name.startswith(f'{called_there}.')
    }
    _, settings = _ours(shared, file, called, backbone)
    frozen = {'encoder.norm.weight', 'encoder.norm.bias'}  # of the ViT: no forward uses it
    assert settings.keys() == recorded.keys() - frozen
    for name, values in settings.items():
        expected = rates.get(name, golden['base_lr']), recorded[name][1]
        assert values == pytest.approx(expected, rel=1e-9), name


def test_the_backbone_is_found_by_what_it_is() -> None:
    for name in ('backbone', 'encoder', 'anything'):
        settings = _settings(model := Model(name), _build(model))
        assert settings[f'{name}.pos_embed'] == pytest.approx((LR * 0.9**5, 0))
        assert settings[f'{name}.blocks.3.attn.qkv.weight'] == pytest.approx((LR * 0.9, 0.05))
        assert settings['head.weight'] == pytest.approx((LR, 0.05))
    wrapped = nn.parallel.DataParallel(model)
    assert _settings(model, _build(wrapped)) == settings


def test_equal_settings_share_a_group() -> None:
    wrapper = _build(model := Model(), rate=1.0)
    decayed, others = wrapper.optimizer.param_groups
    assert (decayed['weight_decay'], others['weight_decay']) == (WEIGHT_DECAY, 0)
    assert decayed['lr'] == others['lr'] == LR
    assert len(decayed['params']) + len(others['params']) == sum(
        param.requires_grad for param in model.parameters()
    )


def test_frozen_parameters_are_left_out() -> None:
    settings = _settings(model := Model(frozen_stages=2), _build(model))
    assert settings.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any('blocks.1.' in name or 'norm.weight' == name for name in settings)


def test_resume_continues_the_run() -> None:
    def step(model: Model, wrapper: OptimWrapper) -> None:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, 3, 64, 64, generator=generator)
        loss = sum(feature.square().mean() for feature in model.backbone(image))
        wrapper.update_params(loss)

    model = Model()
    wrapper = _build(model)
    step(model, wrapper)
    resumed = Model()
    resumed.load_state_dict(model.state_dict())
    resumed_wrapper = _build(resumed)
    resumed_wrapper.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    assert _settings(resumed, resumed_wrapper) == _settings(model, wrapper)
    for one, its_wrapper in ((model, wrapper), (resumed, resumed_wrapper)):
        step(one, its_wrapper)
    for (name, p), q in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    ('paramwise', 'optimizer', 'match'),
    [
        ({'layer_decay_rate': 1.5}, {}, '0 < x <= 1'),
        ({'layer_decay_rate': 0.9, 'custom_keys': {}}, {}, 'nothing else'),
        ({}, {}, 'nothing else'),
        ({'layer_decay_rate': 0.9}, {'lr': None}, 'lr and weight_decay'),
    ],
)
def test_wrong_settings_are_refused(paramwise: dict, optimizer: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LayerDecayOptimWrapperConstructor(
            {'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': 0.05, **optimizer}}, paramwise
        )


@pytest.mark.parametrize('count', [0, 2])
def test_one_backbone_is_needed(count: int) -> None:
    model = nn.Sequential(nn.Linear(2, 2), *(Model() for _ in range(count)))
    with pytest.raises(ValueError, match=f'has {count} submodules'):
        _build(model)
