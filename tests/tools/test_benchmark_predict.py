"""The benchmarks of scene prediction, on few tiles."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmark'


def printed(name, *arguments):
    command = [sys.executable, FOLDER / name, *map(str, arguments)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


@pytest.mark.slow
def test_all_ways_are_timed_of_both_layouts():
    text = printed('predict.py', 'tiny', '--rows', 2, '--rounds', 1, '--tile', 64)
    assert 'tiny, 4 tiles of 64' in text
    for layout in ('tiled', 'striped'):
        (line,) = re.findall(f'^{layout}: .*', text, re.MULTILINE)
        names = re.findall(r'(\w+) ([\d.]+)', line)
        assert {'scene', 'memory', 'mmdet', 'reading', 'computing', 'writing'} <= {
            name for name, value in names if float(value) >= 0
        }


@pytest.mark.slow
def test_the_memory_of_a_scene_is_measured():
    lines = printed('predict_memory.py', '--sides', 600).splitlines()
    assert [line.split(':')[0] for line in lines] == ['tiled_600', 'striped_600']
    for line in lines:
        found = re.findall(r'[\d,]*\d', line.split(': ')[1])
        before, tiles, end, _ = (int(each.replace(',', '')) for each in found)
        assert 0 < before < tiles <= end
