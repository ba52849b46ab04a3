"""The conversion of official whole-model checkpoints."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

TOOL = str(Path(__file__).parents[2] / 'tools' / 'checkpoints' / 'convert_official.py')


def test_tool(monkeypatch, tmp_path, capsys):
    source, target = tmp_path / 'official.pth', tmp_path / 'out' / 'ours.pth'
    torch.save(
        {
            'epoch': 3,
            'state_dict': {
                'module.encoder.pos_embed': torch.zeros(1, 4, 2),
                'module.semseghead_2.1.bias': torch.ones(3),
                'module.inssegroimaskhead_conv3.bias': torch.ones(2),
                'module.rotdetroiboxhead_fc_reg1.weight': torch.ones(5, 2),
            },
        },
        source,
    )
    monkeypatch.setattr(sys, 'argv', ['convert_official.py', str(source), str(target)])
    runpy.run_path(TOOL, run_name='__main__')
    assert '4 tensors, 23 values' in capsys.readouterr().out
    assert sorted(torch.load(target, weights_only=True)['state_dict']) == [
        'backbone.pos_embed',
        'tasks.instance.roi_head.mask_heads.fast.conv_logits.bias',
        'tasks.rotated.roi_head.bbox_heads.sota.fc_reg.weight',
        'tasks.semantic.classifiers.sior.1.bias',
    ]
    with pytest.raises(SystemExit):
        runpy.run_path(TOOL, run_name='__main__')
    assert 'exists' in capsys.readouterr().err
