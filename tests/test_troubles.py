"""Every reader answers every trouble as the table of docs/labels.md says; some through test.py."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mtp.cli.finetuning import SIDES
from mtp.recipes.shrink import shrink
from tests.conftest import REPO
from tests.test_finetuning_docs import SNIPPETS, make
from tests.tools.test_train import run_tool
from tests.troubles import PAGE, READERS, TROUBLES, line, try_row

pytestmark = pytest.mark.usefixtures('few_objects')


@pytest.mark.parametrize('trouble', TROUBLES)
def test_trouble(trouble, tmp_path):
    cells = try_row(trouble, tmp_path)
    assert len(cells) == len(READERS) and all(cells.values())
    assert line(trouble, cells) in PAGE.read_text().splitlines(), 'run python -m tests.troubles'


def no_area(folder):
    with (folder / 'val/labels/1.txt').open('a') as file:
        file.write('70 70 80 70 90 70 100 70 car 0\n')


def other_values(folder):
    cv2.imwrite(str(folder / 'val/labels/1.png'), np.full((300, 300), 7, np.uint8))


def not_finite(folder):
    path = folder / 'val.json'
    content = json.loads(path.read_text())
    content['annotations'][1]['bbox'][2] = float('nan')
    path.write_text(json.dumps(content))


# trouble -> task of a documented config, what the error says; None for none
THROUGH_TEST = {
    no_area: ('rotated_detection', None),
    other_values: ('segmentation', 'label_values='),
    not_finite: ('horizontal_detection', 'val.json, annotation 2'),
}


@pytest.mark.parametrize('trouble', THROUGH_TEST)
def test_through_test_py(trouble, tmp_path, monkeypatch):
    task, said = THROUGH_TEST[trouble]
    path = tmp_path / 'configs' / 'finetune' / task / 'mine' / 'vit_b_rvsa.py'
    path.parent.mkdir(parents=True)
    shutil.copytree(REPO / 'configs' / '_base_', tmp_path / 'configs' / '_base_')
    path.write_text(SNIPPETS[task])
    make(tmp_path / 'data' / 'mine', task)
    trouble(tmp_path / 'data' / 'mine')
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(path)
    shrink(cfg, SIDES[cfg.default_scope])
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.dump('small.py')
    if said is None:
        run_tool(monkeypatch, 'test', 'small.py', 'untrained')
        (place,) = Path('work_dirs/small/left_out.txt').read_text().splitlines()
        assert '1.txt, line 3: left out, as all objects without area' in place
        return
    with pytest.raises(SystemExit) as stop:
        run_tool(monkeypatch, 'test', 'small.py', 'untrained')
    assert said in str(stop.value) and not Path('work_dirs/small/metrics.json').exists()
