"""The benchmark of the operators, at tiny sizes."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / 'tools' / 'benchmark'))  # as the command has it
from operator_launches import counted  # noqa: E402
from operators.goals import judge  # noqa: E402
from ops import print_rows  # noqa: E402

from tests.tools.test_train import run_tool


@pytest.fixture
def run(monkeypatch):
    """Run the tool, and return its exit code."""

    def run(*args):
        with pytest.raises(SystemExit) as stop:
            run_tool(monkeypatch, 'benchmark/ops', '--device', 'cpu', '--sizes', 'tiny', *args)
        return stop.value.code

    return run


def test_every_form_agrees_and_the_file_says_what_the_table_says(run, tmp_path, capsys):
    assert run('--repeats', '1', '--json', tmp_path / 'rows.json') == 0
    printed = capsys.readouterr().out
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
        'grouped_batch_norm',
        'resize_maps',
        'bias_relu',
    }
    assert {(row['dtype'], row['mode']) for row in rows if row['operator'] == 'dcnv3'} == {
        (dtype, mode) for dtype in ('float32', 'bfloat16') for mode in ('fwd', 'fwd+bwd')
    }
    for row in rows:
        if row['form'] in ('torch', 'plain'):
            assert row['error'] < (2e-5 if row['dtype'] == 'float32' else 0.05), row
            assert row['device_ms'] is None and row['floor_ms'] > 0
            assert row['ms'] > 0 and row['runs'] == 1 and row['peak_mb'] is None
            assert row['gb_s'] == pytest.approx(row['moved_bytes'] / row['ms'] / 1e6)
            assert row['of_copy'] == pytest.approx(row['gb_s'] / report['ceilings']['copy_gb_s'])
    loss = next(row for row in rows if row['operator'] == 'sigmoid_focal_loss')
    assert loss['moved_bytes'] == 30 * 4 * 4 * 2 + 30 * 8  # logits, loss; int64 targets
    goals = {row['operator'] for row in rows if row.get('goals')}
    assert goals == {'relative_position_attention', 'sigmoid_focal_loss'} | {
        'rotated_window_attention',
        'dcnv3',
        'roi_align_rotated',
    }
    assert 'at least 4 x C: not run' in printed
    lines = [line.split() for line in printed.splitlines()]
    for row in rows:
        assert [row['form'], row['dtype'], row['mode']] in [line[:3] for line in lines]
    assert report['torch'] == torch.__version__ and report['device'] in printed


def test_unknown_operator_is_refused(run, capsys):
    assert run('--only', 'conv') == 2
    assert 'conv: there are bias_relu, box_iou_rotated' in capsys.readouterr().err


def row(form, dtype, mode, device_ms, ms, **others):
    return dict(
        operator='dcnv3', size='s', images=1, form=form, dtype=dtype, mode=mode,
        device_ms=device_ms, ms=ms, host_ms=0.1, floor_ms=0.1 if mode == 'fwd' else 0.3, **others
    )  # fmt: skip


def test_goals_are_judged_by_replays_alone(capsys):
    rows = [
        row('kernel', 'bfloat16', 'fwd', 0.2, 5.0),
        row('kernel', 'bfloat16', 'fwd+bwd', 0.8, 5.0),
        row('plain', 'bfloat16', 'fwd+bwd', None, 4.0, not_captured=['not captured: Error: why']),
    ]
    judge(rows)
    assert [r.get('goals') for r in rows] == [
        None,
        ['backward at most 4 x its floor: 3, met'],
        None,
    ]
    for r in rows:
        r['operator'] = 'sigmoid_focal_loss'
    judge(rows)
    assert rows[1]['goals'] == ['at least 4 x C: 5, met']
    print_rows(rows)
    printed = capsys.readouterr().out
    title = 'kernel       bfloat16 fwd+bwd '
    line = next(line for line in printed.splitlines() if line.startswith(title))
    assert line.removeprefix(title).split()[:4] == ['0.800', '5.000', '0.100', '0.300']
    assert 'not run    4.000' in printed and '    not captured: Error: why' in printed
    rows[1]['device_ms'] = 2.0
    judge(rows)
    assert rows[1]['goals'] == ['at least 4 x C: 2, missed']
    rows[1]['device_ms'] = None
    judge(rows)
    assert rows[1]['goals'] == ['at least 4 x C: not run']


def test_launches_are_counted_inside_of_operators():
    rows = counted(['rotated_window_block'])
    assert [(r['dtype'], r['fwd'], r['fwd+bwd']) for r in rows] == [
        ('float32', 2, 6),
        ('bfloat16', 2, 6),
    ]
    assert rows[0]['kernels'] == {
        'triton::_forward_kernel': 2,
        'triton::_backward_kernel': 2,
        'triton::_round_kernel': 1,
        'aten::new_zeros': 1,
    }
    with pytest.raises(ValueError, match='--only conv: there are bias_relu, box_iou_rotated'):
        counted(['conv'])
