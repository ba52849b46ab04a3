"""Tiles of large images with rotated boxes, and back."""

import importlib.util
from collections import defaultdict
from pathlib import Path

import cv2
import mmrotate
import numpy as np
import pytest
import torch
from mmrotate.evaluation import DOTAMetric
from mmrotate.structures.bbox import qbox2rbox

from mtp.data.datasets import DATASETS
from mtp.data.formats.dota_text import read_dota
from mtp.data.formats.object_xml import read_fair1m
from mtp.data.prepare import prepare
from mtp.data.prepare.rotated_detection import DOTA_TILINGS
from mtp.data.prepare.tiling import CUT, Tiling, shares
from tests.data.tiles import boxes_of, place


@pytest.mark.parametrize('name', ['dota_v1', 'fair1m'])
def test_tiles_hold_the_objects_of_their_image(name, detection_set):
    src, dst, report = detection_set(name)
    if name == 'dota_v1':
        images = {path.stem: path for path in src.glob('*/images/*.png')}
        labels = {path.stem: read_dota(path) for path in src.glob('*/labelTxt/*.txt')}
        side, first = 1024, 'P0000'
    else:
        images = {
            ('val_' if 'validation' in path.parts else 'train_') + path.stem: path
            for path in src.rglob('images/*.tif')
            if 'test' not in path.parts
        }
        labels = {
            ('val_' if 'validation' in path.parts else 'train_') + path.stem: read_fair1m(path)
            for path in src.rglob('labelXml/*.xml')
        }
        side, first = 800, 'train_0'
    labels = {stem: list(boxes) for stem, boxes in labels.items()}
    seen = defaultdict(list)
    for path in sorted((dst / 'trainval' / 'annfiles').iterdir()):
        stem, tile_side, x, y = place(path.stem)
        assert tile_side == side
        pixels = cv2.imread(str(images[stem]))[y : y + side, x : x + side]
        tile = cv2.imread(str(dst / 'trainval' / 'images' / f'{path.stem}.png'))
        np.testing.assert_array_equal(tile, pixels)
        found = boxes_of(path)
        assert found
        for corners, label, difficulty in found:
            i = next(
                i
                for i, box in enumerate(labels[stem])
                if np.allclose(box.corners, corners + (x, y), atol=1e-5)
            )
            box = labels[stem][i]
            assert label == box.name.replace(' ', '-')
            inside = (corners >= 0).all() and (corners <= side).all()
            assert difficulty == (box.difficulty if inside else CUT)
            seen[stem].append(i)
    assert set(seen) == set(labels) and first in seen
    held = sum(len(set(found)) for found in seen.values())
    assert held + report.left_out['objects that no tile holds'] == sum(map(len, labels.values()))
    assert report.left_out['objects that no tile holds'] == 0 or name == 'fair1m'
    assert len(list((dst / 'test' / 'images').iterdir())) == 4
    assert not (dst / 'test' / 'annfiles').exists()


def test_windows_and_shares_are_those_of_mmrotates_tool():
    rng = np.random.default_rng(0)
    path = Path(mmrotate.__file__).parent / '.mim/tools/data/dota/split/img_split.py'
    if not path.is_file():
        pytest.skip('this mmrotate comes without its tools')
    spec = importlib.util.spec_from_file_location('img_split', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for plan in DOTA_TILINGS.values():
        sides = [int(plan.side / rate) for rate in plan.rates]
        overlaps = [int(plan.overlap / rate) for rate in plan.rates]
        for height, width in (*rng.integers(100, 6000, (40, 2)), (1024, 1024), (1848, 2048)):
            theirs = tool.get_sliding_window(dict(height=height, width=width), sides, overlaps, 0.6)
            ours = plan.windows(height, width)
            np.testing.assert_array_equal(ours[:, :2], theirs[:, :2])
            np.testing.assert_array_equal(ours[:, :2] + ours[:, 2:], theirs[:, 2:])
    tiles = Tiling(300, 100, (0.5, 1.0)).windows(900, 1000)
    corners = np.stack(
        [
            cv2.boxPoints(((x, y), (w, h), angle))
            for x, y, w, h, angle in rng.uniform(
                (0, 0, 5, 5, 0), (1000, 900, 300, 100, 90), (50, 5)
            )
        ]
    )
    squares = np.concatenate([tiles[:, :2], tiles[:, :2] + tiles[:, 2:]], 1)
    theirs = tool.bbox_overlaps_iof(corners.reshape(-1, 8), squares)
    np.testing.assert_allclose(shares(corners, tiles), theirs, atol=1e-5)


def test_predictions_of_tiles_of_several_scales_merge_to_images(detection_set, tmp_path):
    src, *_ = detection_set('dota_v1')
    dst = tmp_path / 'dst'
    report = prepare('dota_v1', src, dst, multi_scale=True)
    sides = {place(path.stem)[1] for path in (dst / 'trainval' / 'images').iterdir()}
    assert sides == {1024, 682} and report.made['test tiles'] == 13
    results = []
    for path in sorted((dst / 'trainval' / 'annfiles').iterdir()):
        found = boxes_of(path)
        corners = torch.tensor(np.stack([corners.reshape(8) for corners, *_ in found])).float()
        results.append(
            dict(
                img_id=path.stem,
                bboxes=qbox2rbox(corners).numpy(),
                scores=np.ones(len(found)) * 0.9,
                labels=np.array([DATASETS['dota_v1'].classes.index(name) for _, name, _ in found]),
            )
        )
    metric = DOTAMetric(format_only=True, merge_patches=True, outfile_prefix='unused')
    metric.dataset_meta = dict(classes=DATASETS['dota_v1'].classes)
    metric.merge_results(results, str(tmp_path / 'merged'))
    for path in src.glob('*/labelTxt/*.txt'):
        for name in ('plane', 'ship', 'tennis-court', 'storage-tank'):
            expected = sorted(
                tuple(box.corners.mean(0)) for box in read_dota(path) if box.name == name
            )
            lines = (tmp_path / 'merged' / f'Task1_{name}.txt').read_text().splitlines()
            merged = sorted(
                tuple(np.array(line.split()[2:], float).reshape(4, 2).mean(0))
                for line in lines
                if line.split()[0] == path.stem
            )
            np.testing.assert_allclose(merged, expected, atol=0.1)


def test_small_images_and_objects_without_extent(detection_source, tmp_path):
    src = detection_source('dota_v1')
    image = src / 'train' / 'images' / 'P0000.png'
    cv2.imwrite(str(image), cv2.imread(str(image))[:200])
    (src / 'train' / 'labelTxt' / 'P0000.txt').write_text(
        '10 10 60 10 60 40 10 40 ship 1\n10 10 10 10 10 10 10 10 ship 0\n'
        '-30 50 30 50 30 80 -30 80 ship 1\n10 100 60 130 60 100 10 130 ship 0\n'
    )
    for stem in ('train/labelTxt/P0001', 'val/labelTxt/P0002'):
        (src / f'{stem}.txt').write_text('imagesource:GoogleEarth\ngsd:null\n')
    report = prepare('dota_v1', src, tmp_path / 'dst')
    assert report.bad == []
    (tile,) = (tmp_path / 'dst' / 'trainval' / 'images').iterdir()
    assert tile.name == 'P0000__1024__0___0.png'
    pixels = cv2.imread(str(tile))
    assert pixels.shape == (1024, 1024, 3) and pixels[200, 299].tolist() == [104, 116, 124]
    assert [
        (name, difficulty)
        for _, name, difficulty in boxes_of(tile.parents[1] / 'annfiles' / f'{tile.stem}.txt')
    ] == [('ship', 1), ('ship', 0)]
    assert report.left_out == {
        'objects without area': 1,
        'objects that no tile holds': 1,
        'tiles without objects': 2,
    }
