"""data.yaml is read as mtp, ultralytics and Roboflow write it."""

import pytest

from mtp.data.description import read_description, read_names, write_description
from mtp.files import UnusableFileError


@pytest.fixture
def folder(tmp_path):
    for name in ('train/images', 'valid/images', 'images/train', 'images/val'):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def read(folder, text):
    (folder / 'data.yaml').write_text(text)
    return read_description(folder / 'data.yaml')


def test_roboflow(folder):
    found = read(
        folder, 'train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [plane, "car"]\n'
    )
    assert found.splits == {
        'train': (folder / 'train/images',),
        'val': (folder / 'valid/images',),
    }
    assert found.names == ('plane', 'car') and found.task is None


def test_ultralytics(folder):
    found = read(
        folder,
        'path: .\ntrain: images/train\nval: [images/val]\nnames: {1: b, 0: 747}\ntask: obb\n',
    )
    assert found.names == ('747', 'b') and found.splits['val'] == (folder / 'images/val',)


def test_what_is_written_is_read(folder):
    content = dict(
        path='.',
        train='train/images',
        names=['ground', 'water'],
        task='segmentation',
        label_values={1: 'ground', '#0000ff': 'water'},
        bands=[4, 3, 2],
        mean=[1.5, 2.0, 3.0],
        std=[1.0, 1.0, 2.0],
        nodata=-9999,
        gsd=0.5,
    )
    write_description(folder / 'data.yaml', content)
    found = read_description(folder / 'data.yaml')
    assert found.label_values == content['label_values'] and found.bands == (4, 3, 2)
    assert (found.nodata, found.gsd, found.mean) == (-9999.0, 0.5, (1.5, 2.0, 3.0))


@pytest.mark.parametrize(
    'text, said',
    [
        ('train: images/train\nname: [a]', r"unknown key 'name' \(did you mean names"),
        ('val: images/val', 'no key train'),
        ('train: images/train\nnames: {1: a}', 'numbers from 0 on'),
        ('train: images/train\nnames: [a, A]', "'a' and 'A'"),
        ('train: images/train\nnames: plane', 'with a comma'),
        ('train: images/train\nnames: [a]\nnc: 3', 'nc is 3'),
        ('train: [1]', 'list of them'),
        ('train: images/train\nlabel_values: [1]', 'label_values'),
        ('train: images/train\nmean: red', 'list of numbers'),
        ('train: images/train\ngsd: fine', 'give a number'),
        ('a: [', 'no yaml'),
        ('just text', 'no keys'),
    ],
)
def test_faults_are_named(folder, text, said):
    with pytest.raises(UnusableFileError, match=f'data.yaml.*{said}'):
        read(folder, text)


@pytest.mark.parametrize('text', ['train: nowhere', 'path: nowhere\ntrain: images/train'])
def test_missing_folders_are_named(folder, text):
    with pytest.raises(FileNotFoundError, match='data.yaml.*nowhere'):
        read(folder, text)


def test_keypoints_are_refused(tmp_path):
    path = tmp_path / 'data.yaml'
    path.write_text('train: .\nnames: [car]\nkpt_shape: [17, 3]\nflip_idx: [0]\n')
    for read in (read_description, read_names):
        with pytest.raises(
            UnusableFileError, match='kpt_shape says .* and remove kpt_shape and fl'
        ):
            read(path)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('names: [yes, no]', 'names has True, .* in quotes'),
        ('names: [car, null]', 'names has None, .* in quotes'),
        ("names: [car]\nnc: '1'", "nc is '1', but names has 1 entries: write nc: 1"),
    ],
)
def test_what_yaml_reads_as_no_text(text, said, folder):
    with pytest.raises(UnusableFileError, match=said):
        read(folder, f'train: train/images\n{text}\n')
    assert read(folder, 'train: train/images\nnames: [747, "no"]\n').names == ('747', 'no')
