"""The benchmark of the operators, at tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmark' / 'ops.py'


def run(*args):
    return subprocess.run(
        [sys.executable, TOOL, '--device', 'cpu', '--sizes', 'tiny', *args],
        text=True,
        capture_output=True,
        check=False,
    )


def test_every_form_agrees_and_the_file_says_what_the_table_says(tmp_path):
    result = run('--repeats', '1', '--json', tmp_path / 'rows.json')
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / 'rows.json').read_text())
    rows = report['rows']
    assert {row['operator'] for row in rows} == {
        'rotated_window_attention',
        'rotated_window_block',
        'relative_position_attention',
        'dcnv3',
        'roi_align_rotated',
        'box_iou_rotated',
        'nms_rotated',
        'sigmoid_focal_loss',
    }
    assert {(row['dtype'], row['mode']) for row in rows if row['operator'] == 'dcnv3'} == {
        (dtype, mode) for dtype in ('float32', 'bfloat16') for mode in ('fwd', 'fwd+bwd')
    }
    for row in rows:
        if row['form'] in ('torch', 'plain'):
            assert row['error'] < (2e-5 if row['dtype'] == 'float32' else 0.05), row
            assert row['ms'] > 0 and row['runs'] == 1 and row['peak_mb'] is None
            assert row['gb_s'] == pytest.approx(row['moved_bytes'] / row['ms'] / 1e6)
            assert row['of_copy'] == pytest.approx(row['gb_s'] / report['ceilings']['copy_gb_s'])
    loss = next(row for row in rows if row['operator'] == 'sigmoid_focal_loss')
    assert loss['moved_bytes'] == 30 * 4 * 4 * 2 + 30 * 8  # logits, loss; int64 targets
    lines = [line.split() for line in result.stdout.splitlines()]
    for row in rows:
        assert [row['form'], row['dtype'], row['mode']] in [line[:3] for line in lines]
    assert report['torch'] == torch.__version__ and report['device'] in result.stdout


def test_unknown_operator_is_refused():
    result = run('--only', 'conv')
    assert result.returncode == 2 and 'conv: there are box_iou_rotated' in result.stderr
