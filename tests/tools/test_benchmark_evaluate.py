"""The benchmark of evaluation, with few images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmark' / 'evaluate.py'


@pytest.mark.slow  # mmrotate's pool: four processes that import everything
def test_all_forms_give_the_same_figures(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            TOOL,
            '--images',
            '3',
            '--detections',
            '20',
            '--json',
            tmp_path / 'rows.json',
        ],
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / 'rows.json').read_text())
    assert [(row['what'], row['form']) for row in report['rows']] == [
        ('rotated mAP', 'mtp'),
        ('rotated mAP', 'mmrotate, one process'),
        ('rotated mAP', 'mmrotate, overlaps for nothing'),
        ('rotated mAP', 'mmrotate, pool of 4'),
        ('COCO boxes', 'mtp'),
        ('COCO boxes', 'mtp, without sizes'),
        ('COCO boxes', 'pycocotools'),
        ('COCO masks', 'mtp'),
        ('COCO masks', 'mtp, without sizes'),
        ('COCO masks', 'pycocotools'),
        ('run lengths', 'mtp'),
        ('run lengths', 'pycocotools'),
    ]
    for row in report['rows']:
        assert row['difference'] <= 1e-7, row
        assert row['s'] > 0
        assert row['form'] in result.stdout
    assert report['images'] == 3 and report['detections'] == 20
