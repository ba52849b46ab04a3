"""Released weights by name."""

from pathlib import Path

import pytest

from mtp.models import build_backbone
from mtp.models.weights.released import RELEASED, find_released


def test_names_become_files_and_paths_stay():
    assert find_released('vit_b_rvsa', 'mae') == Path('checkpoints/mae_pretrain_vit_base.pth')
    for path in ('mtp.pth', 'runs/mtp', Path('a/b.pth')):
        assert find_released('vit_b_rvsa', path) == Path(path)
    with pytest.raises(ValueError, match="of vit_l are called 'mtp'. There are: mae"):
        find_released('vit_l', 'mtp')


def test_a_backbone_takes_a_name(tmp_path, monkeypatch):
    monkeypatch.setitem(RELEASED, 'vit_tiny_rvsa', {'mtp': 'tiny.pth'})
    model = build_backbone('vit_tiny_rvsa', init_cfg=dict(type='Pretrained', checkpoint='mtp'))
    assert model.init_cfg['checkpoint'] == 'checkpoints/tiny.pth'
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint at checkpoints/tiny.pth'):
        model.init_weights()
    with pytest.raises(FileNotFoundError, match='no checkpoint at checkpoints/tiny.pth'):
        build_backbone('vit_tiny_rvsa', pretrained='mtp')
