"""InternImage and its DCNv3 module by the released models' tensors; its arguments."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mtp.models.backbones import DCNv3, InternImage, build_backbone
from mtp.models.weights.loading import load_backbone_checkpoint
from tests.models.golden import (
    assert_close,
    assert_gradients_close,
    assert_official_state_dict_loads,
    backbone_entries,
    load_params,
)

TINY = {'channels': 8, 'depths': (1, 1, 2, 1), 'groups': (1, 2, 4, 8), 'mlp_ratio': 2.0}


def _cases(folder: Path) -> dict[str, dict]:
    index = json.loads((folder / 'index.json').read_text())
    entries = index['module'] if isinstance(index, dict) else index
    return {entry['file']: entry['build'] for entry in entries}


# ---- the released networks ----


@pytest.mark.parametrize(
    'case',
    [
        'mtp_style',
        'prenorm_plain',
        'prenorm_layerscale',
        'postnorm_noscale_center',
        'respostnorm_dw5_level2_center',
    ],
)
def test_equals_released_model(shared: Path, case: str) -> None:
    folder = shared / 'golden' / 'internimage'
    build, data = _cases(folder)[f'{case}.npz'], np.load(folder / f'{case}.npz')
    assert build.pop('norm_layer') == 'LN'
    model = InternImage(**build).eval()
    assert list(model.state_dict()) == [
        key.removeprefix('param/') for key in data if key.startswith('param/')
    ]
    load_params(model, data)
    maps = model(torch.from_numpy(data['x']).float())
    for i, feature in enumerate(maps):
        assert_close(feature, data[f'feat{i}'], 2e-4 if case == 'mtp_style' else 1e-4, f'feat{i}')
    sum(
        (feature * torch.from_numpy(data[f'cotangent{i}'])).sum() for i, feature in enumerate(maps)
    ).backward()
    assert_gradients_close(model, data, 1e-3)


@pytest.mark.parametrize(
    'case', ['module_c32_g4', 'module_c16_g2_dw5_center', 'module_c16_g4_removecenter_bn_silu']
)
def test_dcnv3_equals_released_module(shared: Path, case: str) -> None:
    folder = shared / 'golden' / 'dcnv3'
    build, data = _cases(folder)[f'{case}.npz'], np.load(folder / f'{case}.npz')
    build['act_layer'] = getattr(nn, build.get('act_layer', 'GELU'))
    module = DCNv3(**build).eval()
    load_params(module, data)
    x = torch.from_numpy(data['x']).float().requires_grad_()
    out = module(x)
    assert_close(out, data['out'], 1e-5, 'out')
    (out * torch.from_numpy(data['cotangent'])).sum().backward()
    assert_close(x.grad, data['grad_x'], 1e-4, 'x')
    assert_gradients_close(module, data, 1e-4)


def test_official_state_dicts_load_strictly(shared: Path) -> None:
    entries = backbone_entries(shared)
    for name in ('pretrain_internimage_xl', 'finetune_cls_xl_224'):
        with torch.device('meta'):
            model = build_backbone('internimage_xl')
        assert_official_state_dict_loads(model, entries[name])


@pytest.mark.parametrize(
    ('size', 'published'), [('t', 30e6), ('s', 50e6), ('b', 97e6), ('l', 223e6), ('xl', 335e6)]
)
def test_sizes_are_the_published_ones(size: str, published: float) -> None:
    """The paper counts a classifier, too."""
    with torch.device('meta'):
        model = build_backbone(f'internimage_{size}')
    assert 0.95 * published < sum(p.numel() for p in model.parameters()) < published


# ---- checkpoints ----


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('wrapper', ['model', 'state_dict'])
def test_imagenet_checkpoint_loads(tmp_path: Path, prefix: str, wrapper: str) -> None:
    source = InternImage(**TINY)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({wrapper: {**state, 'head.weight': torch.zeros(10, 64)}}, tmp_path / 'file.pth')
    model = InternImage(**TINY)
    report = load_backbone_checkpoint(model, tmp_path / 'file.pth')
    assert (report.prefix, report.missing) == (prefix, [])
    assert report.unexpected == ([] if prefix else ['head.weight'])
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save(InternImage(**TINY).state_dict(), tmp_path / 'file.pth')
    model = InternImage(**{**TINY, 'groups': (1, 2, 2, 8)})
    with pytest.raises(ValueError, match=r'does not fit this InternImage[\s\S]*levels\.2\.blocks'):
        load_backbone_checkpoint(model, tmp_path / 'file.pth')


# ---- input sizes ----


def test_a_side_is_the_images_over_the_stride_rounded_up() -> None:
    model = InternImage(**TINY).eval()
    with torch.no_grad():
        for height, width in ((61, 97), (33, 32), (1, 5)):
            maps = model(torch.randn(1, 3, height, width))
            assert [feature.shape[1:] for feature in maps] == [
                (8 << i, -(-height // (4 << i)), -(-width // (4 << i))) for i in range(4)
            ]
            assert all(feature.isfinite().all() for feature in maps)


def test_image_without_pixels() -> None:
    with pytest.raises(ValueError, match='too small: 0 x 64 pixels'):
        InternImage(**TINY)(torch.zeros(1, 3, 0, 64))


# ---- training options ----


def test_fewer_maps() -> None:
    model = InternImage(**TINY, out_indices=(1, 3))
    assert (model.out_channels, model.strides) == ((16, 64), (8, 32))
    assert [feature.shape for feature in model(torch.randn(1, 3, 64, 64))] == [
        (1, 16, 8, 8),
        (1, 64, 2, 2),
    ]


@pytest.mark.parametrize('stages', [-1, 0, 2])
def test_frozen_stages(stages: int) -> None:
    model = InternImage(**TINY, frozen_stages=stages, drop_path_rate=0.5)
    frozen = () if stages < 0 else ('patch_embed.', *(f'levels.{i}.' for i in range(stages)))
    for name, param in model.named_parameters():
        assert param.requires_grad != name.startswith(frozen), name
    model.eval().train()
    assert [level.blocks[0].training for level in model.levels] == [i >= stages for i in range(4)]
    frozen_blocks = sum(TINY['depths'][: max(stages, 0)])
    assert (model.drop_path.kept[:frozen_blocks] == 1).all()
    sum(feature.mean() for feature in model(torch.randn(1, 3, 64, 64))).backward()


def test_drop_path_rises_over_all_levels() -> None:
    model = InternImage(**TINY, drop_path_rate=0.8)
    assert (1 - model.drop_path.kept).tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_initialisation_starts_at_regular_positions() -> None:
    model = InternImage(**{**TINY, 'channels': 64}, layer_scale=0.1, center_feature_scale=True)
    for block in (block for level in model.levels for block in level.blocks):
        dcn = block.dcn
        for param in (
            *dcn.offset.parameters(),
            *dcn.mask.parameters(),
            dcn.input_proj.bias,
            dcn.center_feature_scale_proj_weight,
            dcn.center_feature_scale_proj_bias,
        ):
            assert not param.any()
        xavier = dcn.output_proj.weight.shape[0] ** -0.5
        assert dcn.output_proj.weight.std().item() == pytest.approx(xavier, rel=0.05)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert (block.gamma1 == 0.1).all() and (block.gamma2 == 0.1).all()


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        ({'channels': 7}, 'channels=7: must be even'),
        ({'depths': (1, 1, 1)}, 'four levels'),
        ({'groups': (3, 2, 4, 8)}, r"divisors of the levels' channels, 8, 16, 32, 64"),
        ({'out_indices': (0, 1, 2)}, 'end at the last one, 3'),
        ({'frozen_stages': 5}, 'frozen_stages=5: must be -1 to 4'),
        ({'dw_kernel_size': 4}, 'dw_kernel_size=4: must be odd'),
        ({'res_post_norm': True, 'layer_scale': 1.0}, 'give one of them'),
        ({'level2_post_norm': True}, 'give both or neither'),
        (
            {'level2_post_norm': True, 'level2_post_norm_block_ids': (2,)},
            'blocks of level 2, 0 to 1',
        ),
        ({'init_cfg': {'type': 'Constant', 'val': 0}}, 'Pretrained'),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        InternImage(**{**TINY, **arguments})
