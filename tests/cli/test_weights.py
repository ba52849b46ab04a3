"""``mtp weights``."""

import pytest
import torch

from mtp.cli.main import main
from mtp.models.weights.layouts import layout


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('MTP_HOME', str(tmp_path / 'home'))
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'home'


def test_list_and_download_say_where_files_are(home, capsys):
    main(['weights', 'list', 'levir'])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == [
        f'levir_{backbone}' for backbone in ('vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl')
    ]
    assert 'F1 92.22' in listed[1] and 'MIT' in listed[1]
    with pytest.raises(SystemExit, match='1'):
        main(['weights', 'download', 'mtp_vit_l_rvsa'])
    printed = capsys.readouterr().out
    for text in (
        'https://github.com/ViTAE-Transformer/MTP\n',
        'last_vit_l_rvsa_ss_is_rd_pretrn_model_encoder.pth',
        f'put at: {home}/last_vit_l_rvsa',
        'put at: checkpoints/last_vit_l_rvsa',
    ):
        assert text in printed
    with pytest.raises(SystemExit):
        main(['weights', 'download', 'mtp_vit_l_rsva'])
    assert 'did you mean mtp_vit_l_rvsa' in capsys.readouterr().err


def test_check_prints_the_hash_and_what_differs(tmp_path, capsys):
    # tensors of the real shapes that share one value
    state = {key: torch.zeros(()).expand(size) for key, size in layout('dior_vit_b_rvsa').items()}
    path = tmp_path / 'model.pth'
    torch.save({'state_dict': state}, path)
    main(['weights', 'check', str(path)])
    printed = capsys.readouterr().out
    assert 'complete: the 265 keys and shapes of dior_vit_b_rvsa' in printed
    assert 'SHA-256' in printed

    for number in range(12):
        del state[f'backbone.blocks.{number}.norm1.weight']
    state['roi_head.bbox_head.fc_cls.bias'] = torch.zeros(5)
    torch.save({'state_dict': state}, path)
    with pytest.raises(SystemExit, match='1'):
        main(['weights', 'check', str(path)])
    printed = capsys.readouterr().out
    assert '12 missing:' in printed and 'blocks.9.norm1' in printed
    assert 'blocks.10.norm1' not in printed  # the first ten
    assert '1 of another shape:\n  roi_head.bbox_head.fc_cls.bias (5,) instead of (21,)' in printed
