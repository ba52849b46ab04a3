"""The worked examples of docs/your_data.md do what the page says, as far as a training step."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mtp.cli.config_check import check_config
from mtp.cli.finetuning import SIDES
from mtp.cli.resume import last_checkpoint
from mtp.data.description import KEYS
from mtp.recipes.shrink import shorten, shrink
from tests.tools.test_train import run_tool
from tests.your_data import ENCODER, PAGE, examples, make_files, run, short

EXAMPLES = {example.title: example for example in examples(PAGE.read_text())}
# title -> images of the training and the validation, and objects of the training
SIZES = {
    'COCO: boxes': (1, 1, 1),
    'COCO: masks': (1, 1, 1),
    'Roboflow: COCO': (2, 1, 2),
    'YOLO': (2, 1, 2),
    "YOLO: ultralytics' data.yaml": (2, 1, 2),
    'VOC': (2, 1, 2),
    'DOTA': (1, 1, 1),
    'FAIR1M': (1, 1, 1),
    'Vector labels over GeoTIFF': (1, 1, 1),
    'Label maps: grey': (1, 1, None),
    'Label maps: palette, 16 bits, other values': (2, 1, None),
    'Label maps: colours': (1, 1, None),
    'Change pairs': (2, 1, None),
    'Class folders': (3, 1, None),
    'What is left out, and what is refused': (1, 1, 1),
}
TRAINED = {  # title -> a figure of the test
    'Label maps: palette, 16 bits, other values': 'building/IoU',
    'Class folders': 'accuracy/top1',
}


pytestmark = pytest.mark.usefixtures('few_objects')


def test_every_example_has_its_sizes():
    assert EXAMPLES.keys() == SIZES.keys()


@pytest.mark.parametrize('title', EXAMPLES)
def test_example(title, tmp_path, monkeypatch):
    if 'GeoTIFF' in title:
        pytest.importorskip('pyogrio')
    monkeypatch.chdir(tmp_path)
    make_files(EXAMPLES[title].tree)
    for command, printed in EXAMPLES[title].commands():
        assert short(command, run(command)) == printed, 'run python -m tests.your_data'

    (path,) = Path('work_dirs').glob(f'*/made/*/config/{ENCODER}.py')
    cfg = Config.fromfile(path)
    check_config(cfg)
    init_default_scope(cfg.default_scope)
    train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    parts = getattr(train, 'datasets', [train])
    objects = [part.tally.objects for part in parts]
    assert (len(train), len(val), *objects) == SIZES[title]
    if title in TRAINED:
        train_and_test(cfg, len(train), TRAINED[title], monkeypatch)


def train_and_test(cfg, number, figure, monkeypatch):
    shrink(cfg, SIDES[cfg.default_scope])
    shorten(cfg, number, steps=3)
    cfg.dump('small.py')
    run_tool(monkeypatch, 'train', 'small.py', '--work-dir', 'run')
    checkpoint = str(last_checkpoint(Path('run')))
    run_tool(monkeypatch, 'test', 'small.py', checkpoint, '--work-dir', 'tested')
    assert figure in json.loads(Path('tested/metrics.json').read_text())


def test_the_keys_of_data_yaml_are_documented():
    table = PAGE.read_text().partition('| key | content |')[2].partition('\n\n')[0]
    keys = [
        name.strip(' `')
        for line in table.splitlines()[2:]
        if line
        for name in line.split('|')[1].split(',')
    ]
    assert keys == list(KEYS)
