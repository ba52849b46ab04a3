"""The benchmark of the loader, with few small images."""

import json

import pytest

from tests.tools.test_train import run_tool


@pytest.mark.slow
def test_all_kinds_of_files(monkeypatch, tmp_path):
    options = '--side 128 --size 64 --objects 5 --images 2 --samples 6 --json'.split()
    run_tool(monkeypatch, 'benchmark/data', *options, tmp_path / 'rows.json')
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['files'] for row in rows] == ['png', 'packed, of the png', 'jpg']
    for row in rows:
        stages = {'record', 'masks', 'boxes', 'label map', 'geometry', 'PackLabels'}
        assert stages <= set(row['ours_stages'])
        assert ('decode' in row['ours_stages']) == (not row['files'].startswith('packed'))
