import json
import runpy
import sys
from pathlib import Path


def test_table_shows_each_task_before_and_after(monkeypatch, tmp_path, capsys):
    before = {'sota/semantic/mIoU': 7.0, 'sota/instance/segm_mAP': 0.5, 'average': 3.75}
    after = {'sota/semantic/mIoU': 61.0, 'sota/instance/segm_mAP': 40.0, 'average': 50.5}
    for name, metrics in ('before', before), ('after', after):
        (tmp_path / name).write_text(json.dumps(metrics))
    monkeypatch.setattr(sys, 'argv', ['', str(tmp_path / 'before'), str(tmp_path / 'after')])
    tool = Path(__file__).parents[2] / 'tools' / 'compare_metrics.py'
    runpy.run_path(str(tool), run_name='__main__')
    head, sota, average = capsys.readouterr().out.splitlines()
    assert head.split() == ['semantic/mIoU', 'instance/segm_mAP', 'rotated/mAP']
    assert sota.split() == ['sota', '7.00', '->', '61.00', '0.50', '->', '40.00', '-']
    assert average.split() == ['average', '3.75', '->', '50.50']
