"""Checkpoint loading: the official results, round trips, and what is refused."""

import argparse
import copy
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from torch import nn

from mtp.models.backbones import ViTRVSA, build_backbone
from mtp.models.weights.loading import load_backbone_checkpoint, read_state_dict

TINY = {'embed_dim': 32, 'num_heads': 4}
VARIANTS = {
    'pre_vit': {},
    'seg_vit': {'final_norm': False},
    'cls_vit': {'pyramid': False},
    'change_vit': {'pyramid': False},
    'hdet_vit_br': {'relative_position': False, 'final_norm': False},
}


def _tiny(img_size: int = 64, **overrides) -> ViTRVSA:
    model = build_backbone('vit_tiny_rvsa', img_size=img_size, **TINY, **overrides)
    for name, param in model.named_parameters():
        if 'rel_pos' in name:
            nn.init.normal_(param)
    return model


def _equal_states(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


# ---- the official loader's results ----


@pytest.mark.parametrize(
    'tag',
    [
        'mae_into_pretrain',
        'mae_into_pretrain_same_grid',
        'mae_module_prefix',
        'mae_into_finetune_seg',
        'mae_into_finetune_cls',
        'mae_into_finetune_change',
        'mae_into_finetune_hdet',
        'mtp_encoder_into_finetune_seg',
        'mtp_encoder_into_finetune_cls',
        'mtp_encoder_into_finetune_change',
        'mtp_encoder_into_finetune_hdet',
        'mtp_full_into_finetune_seg',
    ],
)
def test_equals_the_official_loader(shared: Path, tmp_path: Path, tag: str) -> None:
    folder = shared / 'golden' / 'checkpoint'
    data = np.load(folder / 'vit_checkpoint_loading.npz')
    cases = json.loads((folder / 'index.json').read_text())['cases']
    case = next(case for case in cases if case['tag'] == tag)
    source = {
        key.split('/', 1)[1]: torch.from_numpy(data[key]).float()
        for key in data
        if key.startswith('mae/' if tag.startswith('mae') else 'mtp_encoder/')
    }
    if tag == 'mae_module_prefix':
        content = {'state_dict': {f'module.{key}': value for key, value in source.items()}}
    elif tag == 'mtp_full_into_finetune_seg':
        content = {
            'state_dict': {
                **{f'encoder.{key}': value for key, value in source.items()},
                'semsegdecoder.decode_head.conv_seg.bias': torch.zeros(1),
            }
        }
    else:
        content = {'model' if tag.startswith('mae') else 'state_dict': source}
    torch.save(content, tmp_path / 'checkpoint.pth')

    unused = {'qk_scale', 'drop_rate', 'attn_drop_rate', 'use_abs_pos_emb'}
    build = {key: value for key, value in case['build'].items() if key not in unused}
    model = ViTRVSA(**build, **VARIANTS[case['variant']])
    report = load_backbone_checkpoint(model, tmp_path / 'checkpoint.pth')

    assert report.missing == case['missing_keys']
    assert sorted(report.unexpected) == sorted(case['unexpected_keys'])
    assert sorted(report.resized) == sorted(case['keys_transformed'])
    state = model.state_dict()
    for key in data:
        if key.startswith(f'{tag}/loaded/'):
            name = key.removeprefix(f'{tag}/loaded/')
            if name in report.loaded:
                np.testing.assert_allclose(state[name].numpy(), data[key], rtol=0, atol=1e-6)
    identical = [key for key in report.loaded if key not in report.resized]
    assert len(identical) == case['num_loaded_identically']
    for key in identical:
        assert torch.equal(state[key], source[key]), key


# ---- our own files ----


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'encoder.', 'module.backbone.'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_round_trip(tmp_path: Path, prefix: str, suffix: str) -> None:
    source, path = _tiny(), tmp_path / f'file{suffix}'
    state = {prefix + key: value for key, value in source.state_dict().items()}
    other = 'module.' if prefix.startswith('module') else ''
    state[f'{other}decode_head.conv_seg.weight'] = torch.zeros(2, 2)
    if suffix == '.pth':
        torch.save({'state_dict': state, 'meta': {'epoch': 1}}, path)
    else:
        safetensors.torch.save_file(state, path)
    model = _tiny()
    report = load_backbone_checkpoint(model, path)
    assert _equal_states(source, model)
    assert not report.missing and not report.resized
    assert report.prefix == prefix.removeprefix('module.')
    if prefix:
        assert report.num_ignored == 1 and not report.unexpected


def test_what_training_scripts_save_beside_the_weights_is_read(tmp_path: Path) -> None:
    """Loss lists of numpy numbers, MAE's arguments, mmengine's message hub."""
    history = HistoryBuffer()
    history.update(1.5)
    source = _tiny()
    torch.save(
        {
            'epoch': 3,
            'iteration': 80000,
            'state_dict': source.state_dict(),
            'optimizer': torch.optim.AdamW(source.parameters()).state_dict(),
            'loss_pretrain': [np.float32(1), np.float64(2), np.ones(3), 4.0, np.int64(5)],
            'args': argparse.Namespace(lr=1e-3, output_dir='somewhere'),
            'message_hub': {'log_scalars': {'train/loss': history}},
        },
        tmp_path / 'file.pth',
    )
    model = _tiny()
    load_backbone_checkpoint(model, tmp_path / 'file.pth')
    assert _equal_states(source, model)


def test_checkpoint_of_a_training_run_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a Runner sets the process's default scope: other tests must not see it
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())

    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, inputs: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
            return {'loss': sum(feature.mean() for feature in self.backbone(inputs))}

    source = Model(_tiny())
    runner = Runner(
        source,
        str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(
            [{'inputs': torch.zeros(3, 64, 64)}] * 2, batch_size=2
        ),
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 1},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 1e-3}},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}},
        experiment_name='test_checkpoints',
        log_level='ERROR',
    )
    runner.train()
    model = _tiny()
    report = load_backbone_checkpoint(model, tmp_path / 'iter_1.pth')
    assert report.prefix == 'backbone.' and not report.missing
    assert _equal_states(source.backbone, model)


def test_positions_are_resized_whichever_way_a_state_dict_comes_in() -> None:
    """Also inside a detector that mmengine loads or resumes."""
    source, model = _tiny(64), nn.ModuleDict({'backbone': _tiny(96)})
    model.load_state_dict({f'backbone.{k}': v for k, v in source.state_dict().items()})
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for ours, theirs in zip(model['backbone'].eval()(x), source.eval()(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_copies_resize_positions_too() -> None:
    """The moving average of a model is a deep copy of it."""
    copied = copy.deepcopy(_tiny(96))
    copied.load_state_dict(_tiny(64).state_dict())
    assert copied.pos_embed.shape == (1, 36, 32)


def test_init_cfg_loads_once(tmp_path: Path) -> None:
    source = _tiny()
    torch.save(source.state_dict(), tmp_path / 'file.pth')
    model = _tiny(96, init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'file.pth')})
    assert not torch.equal(model.patch_embed.proj.weight, source.patch_embed.proj.weight)
    model.init_weights()
    assert torch.equal(model.patch_embed.proj.weight, source.patch_embed.proj.weight)
    nn.init.zeros_(model.patch_embed.proj.weight)
    model.init_weights()
    assert not model.patch_embed.proj.weight.any()


def test_report_is_one_table(tmp_path: Path) -> None:
    state = _tiny().state_dict()
    del state['fpn2.0.bias']
    torch.save(
        {**state, 'extra.3.weight': torch.ones(1), 'extra.4.weight': torch.ones(1)},
        tmp_path / 'file.pth',
    )
    report = load_backbone_checkpoint(_tiny(96), tmp_path / 'file.pth')
    lines = [line.split() for line in str(report).splitlines()]
    assert ['loaded', str(len(state))] in lines
    assert ['resized', '5', 'pos_embed', '(1,', '16,', '32)', '->', '(1,', '36,', '32)'] in lines
    assert ['missing', '1', 'fpn2.0.bias'] in lines
    assert ['unexpected', '2', 'extra.*.weight', '(x', '2)'] in lines


# ---- refusals ----


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nothing.pth'):
        build_backbone('vit_tiny_rvsa', pretrained=tmp_path / 'nothing.pth')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('damage', ['truncated', 'empty', 'text'])
def test_damaged_file(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f'file{suffix}'
    save = torch.save if suffix == '.pth' else safetensors.torch.save_file
    save(_tiny().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(
        {
            'truncated': content[: len(content) // 2],
            'empty': b'',
            'text': b'<!DOCTYPE html> quota exceeded',
        }[damage]
    )
    with pytest.raises(ValueError, match=r'file\..*truncated, damaged or no checkpoint'):
        read_state_dict(path)


class _Evil:
    def __reduce__(self):
        return Path, ('x',)


def test_objects_that_could_run_code(tmp_path: Path) -> None:
    torch.save({'state_dict': _tiny().state_dict(), 'hook': _Evil()}, tmp_path / 'file.pth')
    with pytest.raises(ValueError, match=r'holds a pathlib.*cannot be read safely'):
        read_state_dict(tmp_path / 'file.pth')


def test_no_state_dict(tmp_path: Path) -> None:
    torch.save({'epoch': 3}, tmp_path / 'file.pth')
    with pytest.raises(ValueError, match='holds no state dict'):
        read_state_dict(tmp_path / 'file.pth')


def test_file_that_matches_nothing(tmp_path: Path) -> None:
    torch.save({'layer1.0.conv1.weight': torch.ones(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'matches nothing in ViTRVSA.*layer1\.0\.conv1'):
        load_backbone_checkpoint(_tiny(), tmp_path / 'resnet.pth')


@pytest.mark.parametrize(
    ('overrides', 'named'),
    [
        ({'embed_dim': 48}, 'patch_embed.proj.weight'),
        ({'window_size': 7}, 'blocks.0.attn.rel_pos_h'),
        ({'num_heads': 8}, 'relative_position_bias_table'),
    ],
)
def test_other_sizes(tmp_path: Path, overrides: dict, named: str) -> None:
    torch.save(_tiny().state_dict(), tmp_path / 'file.pth')
    model = build_backbone('vit_tiny_rvsa', img_size=64, **{**TINY, **overrides})
    with pytest.raises(ValueError, match=rf'does not fit this ViTRVSA[\s\S]*{named}'):
        load_backbone_checkpoint(model, tmp_path / 'file.pth')


def test_positions_of_no_square(tmp_path: Path) -> None:
    torch.save(_tiny().state_dict() | {'pos_embed': torch.ones(1, 15, 32)}, tmp_path / 'file.pth')
    with pytest.raises(ValueError, match='pos_embed has 15 rows, which is no square grid'):
        load_backbone_checkpoint(_tiny(), tmp_path / 'file.pth')


# ---- bands ----


@pytest.mark.parametrize('name', ['vit_tiny_rvsa', 'internimage_pico'])
@pytest.mark.parametrize('bands', [1, 2, 4, 7])
def test_weights_of_three_bands_keep_their_response(tmp_path: Path, name: str, bands: int) -> None:
    source = build_backbone(name, img_size=64)
    torch.save(source.state_dict(), tmp_path / 'rgb.pth')
    model = build_backbone(name, img_size=64, in_chans=bands)
    report = load_backbone_checkpoint(model, tmp_path / 'rgb.pth')
    assert list(report.adapted) == [f'{model.first_conv}.weight'] and not report.resized
    assert f'{bands}' in str(report) and 'adapted' in str(report)

    weights = source.get_submodule(model.first_conv).weight
    mean = weights[:, [i % 3 for i in range(bands)]].sum(1) * 3 / bands
    expected = weights.sum(1) if bands == 1 else mean
    adapted = model.get_submodule(model.first_conv).weight.sum(1)
    torch.testing.assert_close(adapted, expected)
    if bands == 1:  # a grey image
        grey = torch.rand(1, 1, 64, 64)
        for ours, theirs in zip(model.eval()(grey), source.eval()(grey.expand(-1, 3, -1, -1))):
            torch.testing.assert_close(ours, theirs)


def test_weights_of_other_bands(tmp_path: Path) -> None:
    source = _tiny(in_chans=5)
    torch.save(source.state_dict(), tmp_path / 'five.pth')
    model = _tiny(in_chans=5)
    assert not load_backbone_checkpoint(model, tmp_path / 'five.pth').adapted
    assert _equal_states(model, source)
    for bands in (3, 4):
        with pytest.raises(ValueError, match=rf'images of 5 bands.*in_chans={bands}: only'):
            load_backbone_checkpoint(_tiny(in_chans=bands), tmp_path / 'five.pth')
