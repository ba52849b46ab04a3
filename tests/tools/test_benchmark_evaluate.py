"""The benchmark of evaluation, with few images."""

import json
import multiprocessing.dummy
import runpy

import pytest
from mmrotate.evaluation.functional import mean_ap

from tests.tools.test_train import REPO, run_tool


@pytest.mark.slow
def test_all_forms_give_the_same_figures(monkeypatch, tmp_path, capsys):
    # threads: each process that mmrotate's pool spawns takes seconds to import everything
    monkeypatch.setattr(mean_ap, 'get_context', lambda _: multiprocessing.dummy)
    options = ['--images', '3', '--detections', '20', '--json', tmp_path / 'rows.json']
    run_tool(monkeypatch, 'benchmark/evaluate', *options)
    report = json.loads((tmp_path / 'rows.json').read_text())
    printed = capsys.readouterr().out
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
        assert row['form'] in printed
    assert report['images'] == 3 and report['detections'] == 20


def test_the_pool_s_processes_import_mtp_which_mmcv_needs():
    as_in_a_spawned_process = '__mp_main__'
    tool = REPO / 'tools' / 'benchmark' / 'evaluate.py'
    assert 'mtp' in runpy.run_path(str(tool), run_name=as_in_a_spawned_process)
