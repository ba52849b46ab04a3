"""Pages of samples, for configs of every task."""

import sys

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mtp.data.datasets import DATASETS
from mtp.data.synthetic import make_samrs
from mtp.visualization.browse import browse, only_loading
from mtp.visualization.visualizer import CAPTION, MARGIN
from tests.conftest import REPO
from tests.data.prepared import make_dior, make_dior_r, make_dota

LEAVES = {
    'eurosat': 'classification',
    'spacenet_v1': 'segmentation',
    'loveda': 'segmentation',
    'oscd': 'change_detection',
    'dior': 'horizontal_detection',
    'dota_v1': 'rotated_detection',
    'dior_r': 'rotated_detection',
}
DETECTION = {'dior': make_dior, 'dota_v1': make_dota, 'dior_r': make_dior_r}


@pytest.fixture(scope='module')
def load(tmp_path_factory):
    """The config of a data set, with its data made."""

    def made(name):
        root = tmp_path_factory.mktemp(name)
        if name in DETECTION:
            DETECTION[name](root)
        else:
            DATASETS[name].prepare(DATASETS[name].synthesise(root / 'src'), root)
        cfg = Config.fromfile(REPO / f'configs/finetune/{LEAVES[name]}/{name}/vit_b_rvsa.py')
        dataset = cfg.train_dataloader.dataset
        for part in dataset.get('datasets', [dataset]):
            part['data_root'] = str(root)
        return cfg

    return made


def first_row(page, count):
    """Its square pictures, without captions."""
    width = (page.shape[1] - MARGIN) // count
    return [
        page[CAPTION : CAPTION + width - MARGIN, MARGIN + i * width : (i + 1) * width]
        for i in range(count)
    ]


def colours(picture):
    """Those of areas: pixels that are as their right neighbour."""
    same = (picture[:, 1:] == picture[:, :-1]).all(-1)
    return {tuple(colour) for colour in picture[:, 1:][same].tolist()}


@pytest.mark.parametrize(
    ('name', 'columns'),
    [
        ('eurosat', 2),
        ('spacenet_v1', 4),
        ('loveda', 4),
        ('oscd', 6),
        ('dior', 2),
        ('dota_v1', 2),
        ('dior_r', 2),
    ],
)
def test_a_page_of_each_task(name, columns, load):
    cfg = load(name)
    page = browse(cfg, num=3)
    assert page.dtype == np.uint8 and page.shape[0] > 3 * 200
    assert (browse(cfg, num=3) == page).all(), 'the seed decides'
    before, *others = first_row(page, columns)
    assert before.std() > 0
    assert all((other != before).any() for other in others)
    if name == 'oscd':
        label = others[1][8:-8, 8:-8].astype(int)
        assert (np.ptp(label, axis=-1) < 3).all(), 'the third is the label, black and white'
        assert (label < 9).any() and (label > 246).any()
    elif name == 'loveda':
        assert len(colours(others[0])) > 5


def test_boxes_are_drawn_where_the_objects_are(load):
    """The objects of small.py lie on grey ground."""
    for name in ('dior', 'dota_v1'):
        page = browse(load(name), num=1)
        # caption of the sample and of the picture; the image, then the same with boxes
        top, size = 2 * CAPTION, 384
        image, boxes = (
            page[top : top + size, left : left + size].astype(int)
            for left in (2 * MARGIN, 3 * MARGIN + size)
        )
        drawn = (np.abs(image - boxes) > 30).any(-1)
        near, far = drawn[5 * 3 : 50 * 3, 5 * 3 : 52 * 3], drawn[52 * 3 : 68 * 3, 2 * 3 : 25 * 3]
        assert near.mean() > 0.05 and not far.any(), name


def test_pretraining_and_the_tool(tmp_path, monkeypatch, capsys):
    from importlib import import_module

    samrs = make_samrs(tmp_path / 'samrs', 4, 1, 64)
    monkeypatch.syspath_prepend(REPO / 'tools/data')
    config = REPO / 'configs/pretrain/vit_tiny_rvsa_demo.py'
    roots = [
        f'train_dataloader.dataset.datasets.{i}.data_root={samrs / part}'
        for i, part in enumerate(('SOTA', 'SIOR', 'FAST'))
    ]
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'browse.py',
            str(config),
            '--out',
            str(tmp_path / 'out'),
            '--num',
            '2',
            '--cfg-options',
            *roots,
        ],
    )
    import_module('browse').main()
    page = Image.open(tmp_path / 'out/vit_tiny_rvsa_demo.png')
    assert page.width > 1000 and str(tmp_path / 'out') in capsys.readouterr().out
    missing = f'train_dataloader.dataset.datasets.0.data_root={tmp_path}/none'
    monkeypatch.setattr(
        sys,
        'argv',
        ['browse.py', str(config), '--out', str(tmp_path), '--cfg-options', *roots, missing],
    )
    with pytest.raises(SystemExit, match=f'no folder {tmp_path}/none'):
        import_module('browse').main()


def test_transforms_that_change_a_sample_are_left_out():
    cfg = Config.fromfile(REPO / 'configs/finetune/rotated_detection/dota_v1/vit_b_rvsa.py')
    pipeline = only_loading(cfg.train_dataloader.dataset)['pipeline']
    names = [getattr(step['type'], '__name__', step['type']) for step in pipeline]
    assert names == ['LoadImage', 'LoadAnnotations', 'ConvertBoxType', 'PackDetInputs']
