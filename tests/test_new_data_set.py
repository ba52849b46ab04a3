"""A data set is added in the files that docs/data.md promises, and everything finds it."""

import importlib
import runpy
import shutil
import sys

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mtp.data import datasets
from mtp.recipes import table
from mtp.registry import DATASETS
from tests.conftest import REPO

MODULE = '''"""Boats: a data set of small images with upright boxes."""
import json
from pathlib import Path

import numpy as np

from mtp.data.datasets.base import DataSet, Split
from mtp.data.decoding import read_size
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.coco_files import coco_box, coco_image, write_coco
from mtp.data.prepare.images import copy_image, images_in
from mtp.data.synthetic.drawing import draw, write_image

SHAPES = {'sail boat': 'ship', 'buoy': 'tank'}


def prepare(src: Path, dst: Path) -> Report:
    """Copy to ``{train,val}/*.png``; write ``{train,val}.json``."""
    report = Report()
    for split in DATASET.splits:
        images = images_in(folder(src, split.name), report)
        items = [(path, dst / split.images) for path in images.values()]
        entries = process(_convert, items, f'{split.name} images', report)
        write_coco(dst / split.labels, entries, DATASET.classes, split.name, report)
    return report


def _convert(item):
    path, target = item
    boxes = json.loads(path.with_name(f'.{path.stem}.json').read_text())
    copy_image((path, target / path.name))
    return coco_image(path.name, read_size(path), [
        coco_box(DATASET.classes.index(name), *box) for name, box in boxes])


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write three images of 128 pixels of each split."""
    root, rng = Path(root), np.random.default_rng(seed)
    for split in DATASET.splits:
        for number in range(3):
            image, drawn = draw(rng, 128, SHAPES, 3, (40, 60))
            write_image(root / split.name / f'{number}.png', image)
            (root / split.name / f'.{number}.json').write_text(json.dumps([
                (name, [*corners.min(0), *corners.max(0)]) for name, corners in drawn]))
    return root


DATASET = DataSet(
    title='Boats-2', task='horizontal_detection', classes=tuple(SHAPES), source='nobody',
    licence='none', size='6 images of 128 px', layout='{train,val}/*.png', citation='A. Nobody',
    splits=tuple(Split(split, split, f'{split}.json') for split in ('train', 'val')),
    prepare=prepare, synthesise=synthesise)
'''
BASE = '''"""Boats: the recipe of DIOR, at 128 pixels."""
from mmengine.config import read_base

from mtp.data import COCODetection

with read_base():
    from .dior import *

model.merge(dict(backbone=dict(img_size=128), roi_head=dict(bbox_head=dict(num_classes=2))))
train_pipeline[2].update(scale=(128, 128))
test_pipeline[1].update(scale=(128, 128))
_data = dict(type=COCODetection, dataset='boats', data_root='data/boats')
train_dataloader.dataset.update(
    _data, ann_file='train.json', data_prefix=dict(img='train'), pipeline=train_pipeline)
test_dataloader.dataset.update(
    _data, ann_file='val.json', data_prefix=dict(img='val'), pipeline=test_pipeline)
val_dataloader = test_dataloader
val_evaluator = test_evaluator
'''
ROW = """
boats:
  metric: AP50 of boats
  key: coco/bbox_mAP_50
  fraction: true
"""
BACKBONES = ('vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl')
PROMISED = {
    'mtp/data/datasets/boats.py',
    'configs/_base_/finetune/horizontal_detection/boats.py',
    *(f'configs/finetune/horizontal_detection/boats/{name}.py' for name in BACKBONES),
    'configs/finetune/results.yaml',
}


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A copy of the configs and pages, and a package that has the new module too."""
    root = tmp_path / 'repo'
    shutil.copytree(REPO / 'configs', root / 'configs')
    shutil.copytree(REPO / 'docs', root / 'docs', ignore=shutil.ignore_patterns('images'))
    shutil.copy(REPO / 'README.md', root)
    before = files(root)

    configs, task = root / 'configs', 'horizontal_detection'
    for path, text in (
        (root / 'mtp/data/datasets/boats.py', MODULE),
        (configs / '_base_/finetune' / task / 'boats.py', BASE),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (configs / 'finetune' / task / 'boats').mkdir()
    for name in BACKBONES:
        leaf = (configs / 'finetune' / task / 'dior' / f'{name}.py').read_text()
        (configs / 'finetune' / task / 'boats' / f'{name}.py').write_text(
            leaf.replace(f'{task}.dior', f'{task}.boats').replace('DIOR', 'Boats')
        )
    with (configs / 'finetune' / 'results.yaml').open('a') as file:
        file.write(ROW)
    after = files(root)
    assert {name for name in after if after[name] != before.get(name)} == PROMISED

    monkeypatch.setattr(table, 'CONFIGS', configs / 'finetune')
    monkeypatch.setattr(datasets, '__path__', [*datasets.__path__, str(root / 'mtp/data/datasets')])
    importlib.invalidate_caches()
    monkeypatch.setitem(datasets.DATASETS, 'boats', datasets.find()['boats'])
    yield root
    for name in ('boats', 'nothing'):
        sys.modules.pop(f'mtp.data.datasets.{name}', None)
        vars(datasets).pop(name, None)


def test_a_new_data_set_is_found_by_all(repo, tmp_path, monkeypatch, capsys):
    def run(tool, *args):
        monkeypatch.setattr('sys.argv', [tool, *map(str, args)])
        try:
            runpy.run_path(str(REPO / 'tools' / 'data' / tool), run_name='__main__')
        except SystemExit as stop:
            assert not stop.code, capsys.readouterr().err
        return ' '.join(capsys.readouterr().out.split())

    assert 'boats: Boats-2, horizontal detection, 2 classes' in run('prepare.py', '--list')
    data = tmp_path / 'data'
    run('make_synthetic.py', tmp_path / 'src', '--dataset', 'boats')
    assert '3 train images' in run('prepare.py', 'boats', tmp_path / 'src', data)
    assert '3 train images, 3 val images' in run('check_dataset.py', data, '--dataset', 'boats')

    assert set(table.configs('boats')) == set(BACKBONES)
    cfg = Config.fromfile(table.config_of('boats', 'vit_b_rvsa'))
    table.set_data_root(cfg, data)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 3 and dataset.metainfo['classes'] == ('sail boat', 'buoy')
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 128, 128)
    assert set(sample['data_samples'].gt_instances.labels.tolist()) <= {0, 1}

    made = runpy.run_path(str(REPO / 'tools' / 'make_docs.py'))
    pages = made['pages'](repo)
    del pages[repo / 'docs/modules.md']  # of the whole package, of which the copy has one module
    for path, text in pages.items():
        assert 'Boats-2' in text or '| `boats` | `epoch_12` | AP50 of boats |' in text, path


def test_a_module_without_a_data_set_and_wrong_facts_are_told(repo):
    (repo / 'mtp/data/datasets/nothing.py').write_text('')
    with pytest.raises(AttributeError, match="'mtp.data.datasets.nothing' has no attribute"):
        datasets.find()
    facts = vars(datasets.DATASETS['boats'])
    with pytest.raises(ValueError, match="Boats-2: no task is called 'detection'; there are class"):
        datasets.DataSet(**facts | dict(task='detection'))
    with pytest.raises(ValueError, match='Boats-2: 1 colours for 2 classes'):
        datasets.DataSet(**facts | dict(palette=((0, 0, 0),)))
