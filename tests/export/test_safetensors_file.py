"""``mtp export --to safetensors``."""

import json

import pytest
import torch
from safetensors import safe_open

from mtp.cli.main import main
from mtp.engine.shards import start_shards
from mtp.models import build_backbone
from mtp.models.weights.loading import read_state_dict


def checkpoint(**meta):
    state = {f'backbone.{k}': v for k, v in build_backbone('vit_tiny_rvsa').state_dict().items()}
    state['decode_head.conv_seg.bias'] = torch.zeros(4)[::2]  # a view
    state['decode_head.tied'] = state['decode_head.conv_seg.bias']
    return {'state_dict': state, 'meta': meta, 'optimizer': {'state': {}, 'param_groups': []}}


def test_weights_and_card_are_written_once(tmp_path, capsys):
    config = {'model': {'backbone': {'name': 'vit_tiny_rvsa', 'img_size': 128},
                        'data_preprocessor': {'mean': [1, 2, 3], 'std': [4, 5, 6]}}}  # fmt: skip
    content = checkpoint(
        mtp_model=json.dumps(config), epoch=7, dataset_meta={'classes': ('sea', 'land')}
    )
    path = tmp_path / 'epoch_7.pth'
    torch.save(content, path)
    (tmp_path / 'metrics.json').write_text('{"mIoU": 54.321, "aAcc": null}')
    main(['export', str(path), '--to', 'safetensors'])
    out = tmp_path / 'epoch_7_safetensors'
    assert str(out / 'model.safetensors') in capsys.readouterr().out
    written = read_state_dict(out / 'model.safetensors')
    assert written.keys() == content['state_dict'].keys()
    assert all(torch.equal(written[key], value) for key, value in content['state_dict'].items())
    with safe_open(out / 'model.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['mtp_model']) == config
    front, card = (out / 'README.md').read_text().removeprefix('---\n').split('---\n', 1)
    assert 'pipeline_tag: image-segmentation\n' in front and 'license' not in front
    for text in ('`vit_tiny_rvsa`', '128 pixels', '1, 2, 3', 'sea, land', '| mIoU | 54.32 |'):
        assert text in card
    with pytest.raises(SystemExit, match='model.safetensors exists'):
        main(['export', str(path), '--to', 'safetensors'])


def test_a_sharded_checkpoint_is_merged_and_the_unknown_stays_out(tmp_path):
    content = checkpoint()
    del content['state_dict']['decode_head.tied']
    folder = tmp_path / 'iter_3.pth'
    start_shards(content, folder)()
    main(['export', str(folder), '--to', 'safetensors', '--out', str(tmp_path / 'out')])
    written = read_state_dict(tmp_path / 'out' / 'model.safetensors')
    assert all(torch.equal(written[key], value) for key, value in content['state_dict'].items())
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'input size: 224 pixels' in card
    for text in ('Classes', 'Figures', 'mean', 'epochs'):
        assert text not in card
