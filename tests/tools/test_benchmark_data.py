"""The benchmark of the loader, with few small images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmark' / 'data.py'


@pytest.mark.slow
def test_all_kinds_of_files(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            TOOL,
            '--side',
            '128',
            '--size',
            '64',
            '--objects',
            '5',
            '--images',
            '2',
            '--samples',
            '6',
            '--json',
            tmp_path / 'rows.json',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['files'] for row in rows] == ['png', 'packed, of the png', 'jpg']
    for row in rows:
        stages = {'record', 'masks', 'boxes', 'label map', 'geometry', 'PackLabels'}
        assert stages <= set(row['ours_stages'])
        assert ('decode' in row['ours_stages']) == (not row['files'].startswith('packed'))
