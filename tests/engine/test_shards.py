"""Checkpoints in shards: whole or not at all, and as one file."""

import pytest
import torch
from torch import nn

from mtp.engine import shards as checkpoint


@pytest.fixture
def saved() -> dict:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        'meta': {'iter': 5},
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'message_hub': {},
    }


def test_half_written_folder_is_no_checkpoint(tmp_path, monkeypatch, saved):
    folder = tmp_path / 'iter_5.pth'

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(checkpoint.dcp, 'async_save', killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.start_shards(saved, folder)()
    assert not folder.exists()
    checkpoint.start_shards(saved, folder)()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['iter_5.pth', 'iter_5.pth.sha256']

    (folder / '.metadata').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks \.metadata'):
        checkpoint.read_entries(folder)


def test_merged_file_holds_what_was_saved(tmp_path, saved):
    checkpoint.start_shards(saved, tmp_path / 'folder')()
    checkpoint.merge_shards(tmp_path / 'folder', tmp_path / 'file.pth')
    merged = torch.load(tmp_path / 'file.pth', weights_only=True)
    assert merged.keys() == saved.keys() and merged['meta'] == saved['meta']
    assert merged['optimizer']['param_groups'] == saved['optimizer']['param_groups']
    torch.testing.assert_close(merged['state_dict'], dict(saved['state_dict']), rtol=0, atol=0)
    torch.testing.assert_close(
        merged['optimizer']['state'], saved['optimizer']['state'], rtol=0, atol=0
    )
