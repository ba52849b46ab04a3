"""Every backbone by its contract, and the ViT by the released models' tensors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModule
from torch import nn
from torch.nn import functional as F

from mtp.models.backbones import Backbone, ViTRVSA, build_backbone, list_backbones
from mtp.models.backbones.base import StochasticDepth, add_branch
from tests.models.golden import (
    assert_close,
    assert_gradients_close,
    assert_official_state_dict_loads,
    backbone_entries,
    load_params,
)
from tests.models.small import SMALL_BACKBONES

TINY_VIT = {
    'img_size': 64,
    'embed_dim': 32,
    'depth': 4,
    'num_heads': 4,
    'interval': 2,
    'out_indices': (0, 1, 2, 3),
}


# ---- the contract, for every name ----


@pytest.mark.parametrize('name', list_backbones())
def test_any_number_of_bands(name: str) -> None:
    with torch.device('meta'):
        three, five = (build_backbone(name, img_size=64, in_chans=n) for n in (3, 5))
        maps = five.eval()(torch.randn(1, 5, 64, 64))
    assert [feature.shape[1] for feature in maps] == [*five.out_channels]
    shapes = {key: value.shape for key, value in three.state_dict().items()}
    others = {k: v.shape for k, v in five.state_dict().items() if v.shape != shapes[k]}
    assert list(others) == [f'{five.first_conv}.weight']


@pytest.mark.parametrize('name', list_backbones())
def test_contract(name: str) -> None:
    """At full size, on the meta device: shapes and the graph, without numbers."""
    with torch.device('meta'):
        model = build_backbone(name, img_size=64).eval()
        maps = model(torch.randn(2, 3, 64, 96))
    assert isinstance(model, Backbone) and isinstance(model, BaseModule)
    assert tuple(feature.shape for feature in maps) == tuple(
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(model.out_channels, model.strides, strict=True)
    )
    assert model.strides == (4, 8, 16, 32)

    sum(feature.mean() for feature in maps).backward()
    for param_name, param in model.named_parameters():
        assert 0 <= model.layer_id(param_name) <= model.num_layers + 1
        assert isinstance(model.no_weight_decay(param_name, param), bool)
        assert (param.grad is not None) == param.requires_grad, param_name
    layers = {model.layer_id(param_name) for param_name, _ in model.named_parameters()}
    assert layers >= set(range(model.num_layers + 1))  # the last one may be the heads alone


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_bfloat16_autocast(name: str) -> None:
    model = build_backbone(name, img_size=64).eval()
    x = torch.randn(1, 3, 64, 96)
    expected = model(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps = model(x)
    sum(feature.float().mean() for feature in maps).backward()
    for feature, reference in zip(maps, expected, strict=True):
        assert_close(feature.float(), reference.detach().numpy(), 0.05, name)


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    plain = build_backbone(name, img_size=64)
    saving = build_backbone(name, img_size=64, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        sum(feature.square().mean() for feature in model(x)).backward()
    for (key, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, msg=key)


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_drop_path_acts_in_training_only(name: str) -> None:
    model = build_backbone(name, img_size=64, drop_path_rate=0.9)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(model(x)[3], model(x)[3])
        model.eval()
        assert torch.equal(model(x)[3], model(x)[3])


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_a_position_is_one_piece_of_memory(name: str) -> None:
    """Norms run over channels, and convolutions of GPUs take this layout: nothing is copied."""
    model = build_backbone(name, img_size=64)
    inputs = []
    for path, module in model.named_modules():
        if path.split('.')[-2:-1] == ['blocks']:
            module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    level = model(torch.randn(2, 3, 64, 64))[2]
    assert level.is_contiguous(memory_format=torch.channels_last)
    assert inputs and all(x.is_contiguous() for x in inputs)


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_odd_image_sizes(name: str) -> None:
    model = build_backbone(name, img_size=64).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 61, 97))
    for feature, stride in zip(maps, model.strides, strict=True):
        for side, image_side in zip(feature.shape[2:], (61, 97), strict=True):
            # a backbone may pad the image to whole patches of 16 pixels, or round
            assert -1 < side - image_side / stride < max(1, 16 / stride)
        assert feature.isfinite().all()


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_pretrained_whatever_the_backbone_was_called(name: str, tmp_path: Path) -> None:
    source = build_backbone(name, img_size=64).state_dict()
    for prefix in ('', 'backbone.', 'encoder.'):
        torch.save(
            {'state_dict': {prefix + key: value for key, value in source.items()}},
            tmp_path / 'file.pth',
        )
        model = build_backbone(name, img_size=64, pretrained=tmp_path / 'file.pth')
        for key, value in model.state_dict().items():
            assert torch.equal(value, source[key]), key
    config = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'file.pth')}
    model = build_backbone(name, img_size=64, init_cfg=config)
    model.init_weights()
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())


def test_unknown_name_or_argument_is_refused() -> None:
    with pytest.raises(ValueError, match='did you mean vit_b_rvsa'):
        build_backbone('vit_b_rvas')
    with pytest.raises(ValueError, match="'drop_path'.*did you mean drop_path_rate"):
        build_backbone('vit_b', drop_path=0.1)


@pytest.mark.parametrize('library', ['mmpretrain', 'mmdet', 'mmseg', 'mmrotate'])
def test_other_libraries_build_it_by_name(library: str) -> None:
    import importlib

    registry = importlib.import_module(f'{library}.registry').MODELS
    model = registry.build({'type': 'mtp.ViTRVSA', **TINY_VIT})
    assert isinstance(model, ViTRVSA)


def test_feeds_a_classifier_of_mmpretrain() -> None:
    """mmpretrain's necks take a tuple of maps and nothing else."""
    from mmpretrain.models import ImageClassifier

    classifier = ImageClassifier(
        backbone={'type': 'mtp.ViTRVSA', 'pyramid': False, **TINY_VIT},
        neck={'type': 'mmpretrain.GlobalAveragePooling'},
        head={'type': 'mmpretrain.LinearClsHead', 'num_classes': 5, 'in_channels': 32},
    )
    assert classifier(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_config_names_the_factory() -> None:
    from mtp.registry import MODELS

    model = MODELS.build(
        {'type': build_backbone, 'name': 'vit_tiny_rvsa', 'img_size': 64, 'embed_dim': 64}
    )
    assert model.out_channels == (64,) * 4 and model.grid == (4, 4)


# ---- the released ViT ----

VARIANTS = {
    'pre': {},
    'seg': {'final_norm': False},
    'cls': {'pyramid': False},
    'change': {'pyramid': False},
    'det_branches': {'relative_position': False, 'final_norm': False},
}


def _vit_case(shared: Path, case: str) -> tuple[dict, np.lib.npyio.NpzFile]:
    folder = shared / 'golden' / 'vit'
    info = next(
        entry
        for entry in json.loads((folder / 'index.json').read_text())
        if entry['file'] == f'{case}.npz'
    )
    unused = {'qk_scale', 'drop_rate', 'attn_drop_rate', 'use_abs_pos_emb'}
    build = {key: value for key, value in info['build'].items() if key not in unused}
    return build, np.load(folder / f'{case}.npz')


@pytest.mark.parametrize('case', ['vit_d4_img112', 'vit_d6_img224', 'vit_d4_img160_layerscale'])
def test_equals_released_model(shared: Path, case: str) -> None:
    build, data = _vit_case(shared, case)
    model = ViTRVSA(**build).eval()
    load_params(model, data)
    maps = model(torch.from_numpy(data['x']).float())
    for i, feature in enumerate(maps):
        assert_close(feature, data[f'feat{i}'], 3e-5, f'feat{i}')
    sum(
        (feature * torch.from_numpy(data[f'cotangent{i}'])).sum() for i, feature in enumerate(maps)
    ).backward()
    assert_gradients_close(model, data, 1e-4)


@pytest.mark.parametrize('variant', ['seg', 'cls', 'change', 'det_branches'])
def test_equals_released_variants(shared: Path, variant: str) -> None:
    build, data = _vit_case(shared, 'vit_d4_img112')
    model = ViTRVSA(**build, **VARIANTS[variant]).eval()
    load_params(model, data)
    with torch.no_grad():
        maps = model(torch.from_numpy(data['x']).float())
    for i, feature in enumerate(maps):
        # segmentation has the values of pretraining, stored once
        key = f'feat{i}' if variant == 'seg' else f'variant_{variant}/feat{i}'
        assert_close(feature, data[key], 3e-5, key)


def test_official_state_dicts_load_strictly(shared: Path) -> None:
    """Names, shapes and types of every released ViT, at full size on the meta device."""
    entries = backbone_entries(shared)
    names = [
        name
        for name in entries
        if 'internimage' not in name and '_xl_' not in name and 'single_scale' not in name
    ]
    assert len(names) == 13
    for name in names:
        *kind, size, img_size = name.split('_')
        variant = {
            'finetune_seg': 'seg',
            'finetune_hdet': 'det_branches',
            'finetune_cls': 'cls',
            'finetune_rdet': 'det_branches',
            'finetune_change': 'change',
            'pretrain_vit': 'pre',
        }['_'.join(kind)]
        with torch.device('meta'):
            model = build_backbone(f'vit_{size}_rvsa', img_size=int(img_size), **VARIANTS[variant])
        assert_official_state_dict_loads(model, entries[name])


# ---- input sizes ----


def _trained_positions(model: ViTRVSA) -> ViTRVSA:
    """Relative tables start at zero: give them values that matter."""
    for name, param in model.named_parameters():
        if 'rel_pos' in name or name == 'pos_embed':
            nn.init.normal_(param)
    return model


def test_run_time_resize_equals_a_model_with_resized_positions() -> None:
    model = _trained_positions(ViTRVSA(**TINY_VIT)).eval()  # a grid of 4 x 4
    expected = ViTRVSA(**{**TINY_VIT, 'img_size': (128, 80)}).eval()  # 8 x 5
    state = model.state_dict()
    image = state['pos_embed'].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    image = F.interpolate(image, (8, 5), mode='bicubic').permute(0, 2, 3, 1)
    state['pos_embed'] = image.reshape(1, 40, 32)
    for key in [key for key in state if 'full_attn_rel_pos' in key]:
        rows = 15 if key.endswith('h') else 9
        table = F.interpolate(state[key][None, None], (rows, 8), mode='bicubic')[0, 0]
        state[key] = F.pad(table, (0, 0, 0, 15 - rows))  # rows past 2 W - 1 are never read
    expected.load_state_dict(state)
    x = torch.randn(1, 3, 128, 80)
    with torch.no_grad():
        for ours, theirs in zip(model(x), expected(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_sides_that_are_no_multiple_of_the_patch_are_padded() -> None:
    model = _trained_positions(ViTRVSA(**{**TINY_VIT, 'img_size': (60, 50)})).eval()
    assert model.grid == (4, 4)
    x = torch.randn(1, 3, 60, 50)
    padded = F.pad(x, (0, 14, 0, 4))
    with torch.no_grad():
        for ours, theirs in zip(model(x), model(padded), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_image_too_small_for_the_pyramid() -> None:
    x = torch.randn(1, 3, 16, 64)
    with pytest.raises(ValueError, match='too small: 1 x 4 patches'):
        ViTRVSA(**TINY_VIT)(x)
    assert ViTRVSA(**TINY_VIT, pyramid=False)(x)[0].shape == (1, 32, 1, 4)


# ---- training options ----


def test_drop_path_rises_with_depth() -> None:
    model = ViTRVSA(**TINY_VIT, drop_path_rate=0.9)
    assert (1 - model.drop_path.kept).tolist() == pytest.approx([0, 0.3, 0.6, 0.9])


def test_drop_path_multiplies_each_image_by_zero_or_the_inverse_probability() -> None:
    never, sometimes = StochasticDepth([0.0, 0.75])(64)
    assert (never == 1).all() and never.shape == sometimes.shape == (2, 64)
    assert set(sometimes.flatten().tolist()) == {0.0, 4.0}
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(
        add_branch(x, x, torch.tensor([0.0, 4.0])), x * torch.tensor([1.0, 5.0]).view(2, 1, 1)
    )


@pytest.mark.parametrize('stages', [-1, 0, 2])
def test_frozen_stages(stages: int) -> None:
    model = ViTRVSA(**TINY_VIT, frozen_stages=stages, drop_path_rate=0.5)
    frozen = {'patch_embed', 'pos_embed', *(f'blocks.{i}' for i in range(stages))}
    if stages < 0:
        frozen = set()
    for name, param in model.named_parameters():
        top = '.'.join(name.split('.')[:2]) if name.startswith('blocks') else name.split('.')[0]
        assert param.requires_grad == (top not in frozen and top != 'norm'), name
    expected = [i >= stages for i in range(4)]
    assert [block.training for block in model.blocks] == expected
    model.eval().train()
    assert [block.attn.training for block in model.blocks] == expected
    assert (model.drop_path.kept[: max(stages, 0)] == 1).all()
    sum(feature.mean() for feature in model(torch.randn(1, 3, 64, 64))).backward()


def test_initialisation_scales_the_residual_branches() -> None:
    model = ViTRVSA(**{**TINY_VIT, 'embed_dim': 128, 'init_values': 0.1})
    for i, block in enumerate(model.blocks):
        expected = 0.02 / (2 * (i + 1)) ** 0.5
        for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
            assert weight.std().item() == pytest.approx(expected, rel=0.05)
        assert block.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert (block.gamma_1 == 0.1).all() and (block.gamma_2 == 0.1).all()
    assert model.blocks[0].attn.sampling_angles[2].weight.abs().max() > 0


@pytest.mark.parametrize(
    ('argument', 'value', 'match'),
    [
        ('out_indices', (0, 1, 2), 'four ascending block indices'),
        ('out_indices', (0, 1, 1, 3), 'four ascending block indices'),
        ('out_indices', (0, 1, 2, 4), 'last block, 3'),
        ('frozen_stages', 5, 'frozen_stages=5: must be -1 to 4'),
        ('interval', 0, 'interval=0'),
        ('patch_size', 14, 'multiple of 4'),
        ('init_cfg', {'type': 'Pretrained', 'checkpoint': 'x', 'prefix': 'backbone'}, 'prefix'),
    ],
)
def test_wrong_arguments_are_refused(argument: str, value: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ViTRVSA(**{**TINY_VIT, argument: value})
