"""``mtp predict`` on files, folders, lists and pairs."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from mtp.cli import predict
from mtp.files import UnusableFileError
from mtp.prediction.found_inputs import find_inputs
from mtp.prediction.model import ImageModel
from tests.prediction.small import config_of, save

pytestmark = [
    pytest.mark.usefixtures('few_objects'),
    pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning'),
]


def run(*arguments):
    """Run the command; return its exit code."""
    try:
        predict.main(list(map(str, arguments)))
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Return task -> checkpoint of a small model."""
    folder = tmp_path_factory.mktemp('checkpoints')
    found = {}
    for task in ('classification', 'rotated_detection', 'change_detection', 'pretraining'):
        save(config_of(task, folder / task), folder / f'{task}.pth')
        found[task] = folder / f'{task}.pth'
    return found


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    for name in ('a.png', 'b.png'):
        Image.fromarray(values).save(folder / name)
    return folder


def test_a_bad_file_is_named_and_the_others_are_predicted(checkpoints, images, tmp_path, capsys):
    (images / 'c.png').write_text('no image')
    formats = ('coco', 'dota', 'png', 'gpkg')
    code = run(
        *(checkpoints['rotated_detection'], images, '--out', tmp_path / 'out', '--device', 'cpu'),
        *('--score', '0.0', '--max-objects', '20', '--format', *formats),
    )
    printed = capsys.readouterr()
    assert code == 1 and '1 could not be used' in printed.err and 'c.png' in printed.err
    assert 'model: rotated_detection, 2 classes, on cpu' in printed.out
    names = sorted(path.name for path in (tmp_path / 'out').iterdir() if path.name[0] != '.')
    assert names == [f'{stem}.{end}' for stem in 'ab' for end in ('gpkg', 'json', 'png', 'txt')]
    content = json.loads((tmp_path / 'out' / 'a.json').read_text())
    lines = (tmp_path / 'out' / 'a.txt').read_text().splitlines()
    assert len(content['annotations']) == len(lines) > 0
    assert {line.split()[8] for line in lines} <= {'car', 'plane'}


def test_images_share_a_batch(checkpoints, tmp_path, monkeypatch, capsys):
    """In the order given, with what is found one by one, whatever cannot be used in between."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for number, size in enumerate([(90, 120), (90, 120), (0, 0), (60, 80), (90, 120), (500, 600)]):
        values = np.random.default_rng(number).integers(0, 255, (*size, 3)).astype(np.uint8)
        path = folder / f'{number}.png'
        Image.fromarray(values).save(path) if values.size else path.write_text('no image')
    (folder / '6.png').write_bytes((folder / '0.png').read_bytes()[:9_000])  # its end is missing
    seen, samples = [], ImageModel.samples

    def counted(self, records, datasets):
        seen.append(len(records))
        return samples(self, records, datasets)

    monkeypatch.setattr(ImageModel, 'samples', counted)
    arguments = (checkpoints['rotated_detection'], folder, '--device', 'cpu', '--score', 0)
    options = ('--max-objects', 9, '--tile', 224, '--format', 'coco', '--batch')
    assert run(*arguments, '--out', tmp_path / 'one', *options, 1) == 1
    assert max(seen) == 1
    seen.clear()
    capsys.readouterr()
    assert run(*arguments, '--out', tmp_path / 'four', *options, 4) == 1
    assert seen == [4, 4, 4, 4]  # four images, and three rows of tiles of the large one
    printed = capsys.readouterr()
    said = [line for line in printed.out.splitlines() if '.json' in line]
    assert [Path(line.split(':')[0]).stem for line in said] == ['0', '1', '3', '4', '5']
    assert '2 could not be used' in printed.err
    assert '2.png' in printed.err and '6.png' in printed.err
    for stem in ('0', '1', '3', '4', '5'):
        one, four = (
            json.loads((tmp_path / name / f'{stem}.json').read_text())['annotations']
            for name in ('one', 'four')
        )
        assert len(one) == len(four) > 0
        for key in ('bbox', 'segmentation'):
            values = [np.array([each[key] for each in found]) for found in (one, four)]
            np.testing.assert_allclose(*values, atol=1e-3)
        scores = [[each['score'] for each in found] for found in (one, four)]
        np.testing.assert_allclose(*scores, atol=1e-5)


def test_scenes_of_classes_are_a_grid(checkpoints, tmp_path):
    path = tmp_path / 'a.tif'
    transform = rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000)
    options = dict(dtype='uint8', crs='EPSG:32632', transform=transform)
    with rasterio.open(path, 'w', 'GTiff', 500, 400, 3, **options) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (3, 400, 500)).astype(np.uint8))
    out = tmp_path / 'out'
    arguments = (checkpoints['classification'], path, '--out', out, '--format', 'geojson', 'tif')
    assert run(*arguments, '--tile', 100) == 0
    features = json.loads((out / 'a.geojson').read_text())['features']
    assert len(features) == 20 and {f['properties']['area_m2'] for f in features} == {10_000}
    with rasterio.open(out / 'a.tif') as file:
        assert file.shape == (400, 500) and file.crs == 'EPSG:32632'
        labels = file.read(1)
    for feature in features:
        left, top = map(int, feature['properties']['tile'].split('_'))
        names = {
            ('car', 'plane')[label] for label in labels[top : top + 100, left : left + 100].flat
        }
        assert names == {feature['properties']['class']}


def test_pairs_are_two_folders_or_one_with_both(checkpoints, images, tmp_path):
    for folder in 'AB':
        (tmp_path / 'pairs' / folder).mkdir(parents=True)
        shutil.copy(images / 'a.png', tmp_path / 'pairs' / folder)
    code = run(checkpoints['change_detection'], tmp_path / 'pairs', '--out', tmp_path / 'out')
    assert code == 0
    with rasterio.open(tmp_path / 'out' / 'a.tif') as file:
        assert file.shape == (90, 120) and json.loads(file.tags()['classes'])[0] == 'unchanged'
    dates = [tmp_path / 'pairs' / folder for folder in 'AB']
    assert find_inputs(dates, pairs=True) == find_inputs([tmp_path / 'pairs'], pairs=True)
    with pytest.raises(UnusableFileError, match='BEFORE AFTER'):
        find_inputs([images], pairs=True)
    with pytest.raises(UnusableFileError, match='differ in 1 names, such as b'):
        find_inputs([images, dates[1]], pairs=True)
    (images / 'list.txt').write_text('a.png\nb.png\n')
    assert len(find_inputs([images, images / 'a.png'], pairs=False)) == 2
    with pytest.raises(UnusableFileError, match='a.png and .*a.png have one name'):
        find_inputs([images, dates[0]], pairs=False)
    assert find_inputs([images / 'list.txt'], pairs=False) == find_inputs([images], pairs=False)


def test_a_multi_task_model_predicts_all_its_tasks(checkpoints, images, tmp_path, capsys):
    out = tmp_path / 'out'
    code = run(checkpoints['pretraining'], images / 'a.png', '--out', out, '--polygonize')
    assert code == 0
    expected = ['instance.geojson', 'rotated.geojson', 'semantic.geojson', 'semantic.tif']
    assert sorted(path.name for path in out.iterdir()) == [f'a.mine.{name}' for name in expected]
    assert run(checkpoints['pretraining'], images / 'a.png', '--out', out, '--dataset', 'mien')
    assert 'did you mean mine' in capsys.readouterr().err


def test_images_need_no_rasterio(checkpoints, images, tmp_path, monkeypatch, capsys):
    arguments = (checkpoints['rotated_detection'], images / 'a.png', '--score', 0, '--out')
    assert run(*arguments, tmp_path / 'with') == 0
    pairs = (checkpoints['change_detection'], images / 'a.png', images / 'b.png', '--out')
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    capsys.readouterr()
    assert run(*arguments, tmp_path / 'without') == 0
    assert 'pip install mtp[geo]' in capsys.readouterr().out
    found = [(tmp_path / name / 'a.geojson').read_text() for name in ('with', 'without')]
    assert found[0] == found[1]
    assert run(*pairs, tmp_path / 'map', '--format', 'png') == 0
    assert (tmp_path / 'map' / 'a.png').is_file()
    assert run(*pairs, tmp_path / 'map') == 1
    assert 'need rasterio' in capsys.readouterr().err
