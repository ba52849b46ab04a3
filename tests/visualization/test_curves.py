"""Logs of resumed and stopped runs, joined and drawn."""

import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.visualization import LocalVisBackend, Visualizer
from PIL import Image

from mtp.visualization import plot_curves
from mtp.visualization.curves import read_scalars, task_losses, task_metrics

TOOL = Path(__file__).parents[2] / 'tools' / 'plot_curves.py'


def log(work_dir, time, steps, loss=1.0, end=''):
    path = work_dir / time / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    records = [
        {
            'loss': 4 * loss,
            'sota.semantic.loss_ce': loss,
            'sota.semantic.acc_seg': 90.0,
            'sota.rotated.loss_cls': loss,
            'sota.rotated.loss_bbox': 2 * loss,
            'iter': step,
            'step': step,
        }
        for step in steps
    ]
    records.append(
        {'sota/semantic/mIoU': 50.0, 'sota/rotated/mAP': 40.0, 'average': 45.0, 'step': steps[-1]}
    )
    path.write_text(''.join(json.dumps(record) + '\n' for record in records) + end)
    return path


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    log(tmp_path, '20260101_000000', [10, 20, 30, 40, 50], 1.0, end='{"loss": 1.')
    log(tmp_path, '20260101_010000', [30, 40], 2.0)
    scalars = read_scalars(tmp_path)
    assert scalars['loss'] == {10: 4, 20: 4, 30: 8, 40: 8}
    assert scalars['average'] == {40: 45}
    assert task_losses(scalars) == {
        'semantic': {'sota': {10: 1, 20: 1, 30: 2, 40: 2}},
        'rotated': {'sota': {10: 3, 20: 3, 30: 6, 40: 6}},
    }
    assert task_metrics(scalars) == {
        'semantic': {'mIoU': {'sota': {40: 50}}},
        'rotated': {'mAP': {'sota': {40: 40}}},
    }


def test_tool_draws_into_the_work_directory(tmp_path, monkeypatch, capsys):
    log(tmp_path, '20260101_000000', [10, 20])
    monkeypatch.setattr(sys, 'argv', ['plot_curves.py', str(tmp_path)])
    runpy.run_path(str(TOOL), run_name='__main__')
    picture = Image.open(tmp_path / 'curves.png').convert('RGB')
    assert str(tmp_path / 'curves.png') in capsys.readouterr().out
    blue = sum(
        count
        for count, colour in picture.getcolors(picture.width * picture.height)
        if colour == (0, 114, 178)
    )
    assert blue > 100  # the lines of the only data set


def test_reads_what_mmengine_writes(tmp_path):
    visualizer = Visualizer(
        vis_backends=[dict(type=LocalVisBackend)], save_dir=str(tmp_path / '20260101_000000')
    )
    for step in (1, 2):
        visualizer.add_scalars({'loss': 1 / step, 'sota.semantic.loss_ce': 1 / step}, step=step)
    visualizer.add_scalars({'sota.semantic.loss_ce': np.float64('nan')}, step=2)
    visualizer.add_scalar('average', torch.tensor(float('inf')), step=2)
    assert read_scalars(tmp_path)['loss'] == {1: 1.0, 2: 0.5}
    assert math.isnan(read_scalars(tmp_path)['average'][2])
    text = next(tmp_path.glob('*/vis_data/scalars.json')).read_text()
    assert text.count('null') == 2 and 'NaN' not in text and 'Infinity' not in text
    assert plot_curves(tmp_path, tmp_path / 'new' / 'curves.svg').stat().st_size


def test_errors_say_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['plot_curves.py', str(tmp_path / 'gone')])
    with pytest.raises(SystemExit, match='error: no <time>/vis_data/scalars.json in .*gone'):
        runpy.run_path(str(TOOL), run_name='__main__')
    path = log(tmp_path, '20260101_000000', [10])
    with pytest.raises(ValueError, match='svg'):
        plot_curves(tmp_path, tmp_path / 'curves.xyz')
    path.write_text('{"lr": 1.0, "step": 1}\n')
    with pytest.raises(ValueError, match='holds no losses yet'):
        plot_curves(tmp_path, tmp_path / 'curves.png')
    path.write_text('{"lr": 1.0, "step": 1}\n{"lr": \n')
    with pytest.raises(ValueError, match='line 2 is no json'):
        plot_curves(tmp_path, tmp_path / 'curves.png')
