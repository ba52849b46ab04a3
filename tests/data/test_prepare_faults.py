"""Preparation of detection sets that is interrupted, or meets files that cannot be used."""

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from mtp.data.checks import check_prepared
from mtp.data.datasets import DATASETS, xview
from mtp.data.prepare import images as scenes
from mtp.data.prepare import prepare, tiling

TOOL = Path(__file__).parents[2] / 'tools' / 'data' / 'prepare.py'


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.mark.parametrize(('name', 'module'), [('dota_v1', tiling), ('xview', xview)])
def test_an_interrupted_run_goes_on(name, module, detection_set, tmp_path, monkeypatch):
    src, finished, _ = detection_set(name)
    dst = tmp_path / 'dst'
    written = []

    def interrupt(path, pixels):
        if len(written) == 3:
            (path.parent / f'.1.partial.{path.name}').write_bytes(b'half')
            raise KeyboardInterrupt
        scenes.write_png(path, pixels)
        written.append(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, 'write_png', interrupt)
        prepare(name, src, dst)
    # the last one may lack its label, and is then written again
    times = {path: path.stat().st_mtime_ns for path in written[:2]}
    prepare(name, src, dst)
    assert files(dst) == files(finished)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    again = prepare(name, src, dst)
    assert again == detection_set(name)[2]
    with pytest.raises(FileExistsError, match='something else'):
        prepare('levir', src, dst)


def spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn(path):
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 3  # by 180 degrees: its size stays
        image.save(path, exif=exif)


DOTA_LINE = 'gsd:0.146343590398\n'
BAD = {
    'unknown class': (
        'dota_v1',
        lambda s: spoil(
            s / 'train/labelTxt/P0000.txt', DOTA_LINE, f'{DOTA_LINE}1 1 9 1 9 9 1 9 boat 0\n'
        ),
        r"train/labelTxt/P0000\.txt, line 3: 'boat' is no class",
    ),
    'fields': (
        'dota_v1',
        lambda s: spoil(s / 'train/labelTxt/P0000.txt', DOTA_LINE, f'{DOTA_LINE}1 1 9 1 9 9 1 9\n'),
        r'P0000\.txt, line 3: .* is not of the form "x1 y1',
    ),
    'number': (
        'dota_v1',
        lambda s: spoil(
            s / 'val/labelTxt/P0002.txt', DOTA_LINE, f'{DOTA_LINE}1 1 nan 1 9 9 1 9 ship 0\n'
        ),
        r'P0002\.txt, line 3: .* are not all finite',
    ),
    'exchanged corners': (
        'dior',
        lambda s: spoil(s / 'Annotations/Horizontal Bounding Boxes/00005.xml', '<xmin>', '<xmin>9'),
        r'00005\.xml, line \d+: its second corner .* exchange them, or',
    ),
    'image': (
        'dota_v1',
        lambda s: truncate(s / 'train/images/P0000.png'),
        r'P0000\.png is missing or no whole image: image file is truncated',
    ),
    'no label': (
        'dota_v1',
        lambda s: (s / 'train/labelTxt/P0000.txt').unlink(),
        r'images/P0000\.png: no label .*labelTxt/P0000\.txt',
    ),
    'no image': (
        'dota_v1',
        lambda s: (s / 'train/images/P0000.png').unlink(),
        r'labelTxt/P0000\.txt: no image of this name',
    ),
    'fair1m class': (
        'fair1m',
        lambda s: spoil(s / 'train/part1/labelXml/0.xml', '<name>', '<name>Old '),
        r"labelXml/0\.xml, line 1\d: 'Old ",
    ),
    'fair1m cut': (
        'fair1m',
        lambda s: truncate(s / 'train/part1/labelXml/0.xml'),
        r'labelXml/0\.xml is no whole xml: .* line \d+, column \d+',
    ),
    'fair1m points': (
        'fair1m',
        lambda s: spoil(s / 'validation/labelXml/0.xml', '<point>', '<point>1,'),
        r'validation/labelXml/0\.xml, line 1\d: it has 5 points',
    ),
    'dior side': (
        'dior',
        lambda s: spoil(s / 'Annotations/Horizontal Bounding Boxes/00005.xml', '<xmax>', '<xmax>a'),
        r"00005\.xml, line \d: '.*' are not all numbers",
    ),
    'dior size': (
        'dior',
        lambda s: spoil(
            s / 'Annotations/Horizontal Bounding Boxes/00005.xml', '<width>256', '<width>800'
        ),
        r'00005\.xml is of an image of height and width \(256, 800\)',
    ),
    'dior turned': (
        'dior',
        lambda s: turn(s / 'JPEGImages-trainval/00002.jpg'),
        r'00002\.jpg has the EXIF orientation 3: training would turn it',
    ),
    'dior list': (
        'dior',
        lambda s: spoil(s / 'ImageSets/Main/val.txt', '00002', '00001'),
        r"val\.txt, line 1: '00001' was listed before",
    ),
    'dior_r corner': (
        'dior_r',
        lambda s: spoil(
            s / 'Annotations/Oriented Bounding Boxes/00003.xml', 'x_left_top>', 'x_left>'
        ),
        r'00003\.xml is no whole xml',
    ),
    'dior_r missing': (
        'dior_r',
        lambda s: (s / 'Annotations/Oriented Bounding Boxes/00003.xml').unlink(),
        r'No such file.*00003\.xml',
    ),
    'xview type': (
        'xview',
        lambda s: spoil(s / 'xView_train.geojson', '"type_id": 75', '"type_id": 7'),
        r'100\.tif: .*geojson, feature \d+: unknown type_id 7',
    ),
    'xview bounds': (
        'xview',
        lambda s: spoil(
            s / 'xView_train.geojson', '"bounds_imcoords": "', '"bounds_imcoords": "7,'
        ),
        r"feature 1: bounds_imcoords are '7,.*', not four numbers",
    ),
    'xview corners': (
        'xview',
        lambda s: spoil(
            s / 'xView_train.geojson', '"bounds_imcoords": "', '"bounds_imcoords": "99'
        ),
        r'geojson, feature 1: its second corner .* exchange them, or',
    ),
    'xview image': (
        'xview',
        lambda s: truncate(s / 'train_images/114.tif'),
        r'^\S+/114\.tif is missing or no',
    ),
    'xview gone': (
        'xview',
        lambda s: (s / 'train_images/107.tif').unlink(),
        r"\d+ objects of '107\.tif', but no such image",
    ),
}


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_used_is_named_and_the_rest_is_prepared(case, detection_source, tmp_path):
    name, spoil_source, message = BAD[case]
    src = detection_source(name)
    spoil_source(src)
    report = prepare(name, src, tmp_path / 'dst')
    assert len(report.bad) == (2 if case == 'dior list' else 1)
    assert re.search(message, report.bad[0])
    if case not in ('xview gone', 'no label', 'no image'):
        assert check_prepared(tmp_path / 'dst', name).problems == {}


def test_the_tool_lists_sets_and_fails_if_something_was_left_out(
    detection_source, tmp_path, monkeypatch, capsys
):
    def run(*args):
        monkeypatch.setattr('sys.argv', [str(TOOL), *map(str, args)])
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(str(TOOL), run_name='__main__')
        return exit_info.value.code

    assert not run('--list')
    listed = ' '.join(capsys.readouterr().out.split())
    assert all(
        f'{name}: {facts.title}' in listed and facts.licence in listed and facts.layout in listed
        for name, facts in DATASETS.items()
    )
    src = detection_source('dior')
    truncate(src / 'JPEGImages-test' / '00005.jpg')
    assert run('dior', src, tmp_path / 'dst') == 1
    out, err = capsys.readouterr()
    assert f'{tmp_path}/dst: 4 trainval images' in out
    assert '1 could not be used:' in err and '00005.jpg' in err
    for args, message in (
        ((src / 'none', tmp_path / 'new'), 'no folder'),
        ((src, src), 'holds something else'),
        ((src, tmp_path / 'new', '--multi-scale'), 'one scale only'),
        ((src / 'Annotations', tmp_path / 'new'), 'has no folder'),
    ):
        assert message in run('dior', *args)
