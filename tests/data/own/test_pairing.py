"""Each image gets the labels of its own folder and its own split, and what is unread is counted."""

import json
import zlib

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.recognition import recognise
from mtp.files import UnusableFileError

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
LINE = '0 0.5 0.5 0.2 0.2\n'
DOTA = '8 8 40 8 40 24 8 24 plane 0\n'


@pytest.fixture
def root(tmp_path):
    return tmp_path / 'mine'


def draw(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        other = zlib.crc32(name.encode())  # no two files are equal
        colour = 10 + number, other % 256, other // 256 % 256
        Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(path)


def put(root, text, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def split_of(data, root):
    """Return image -> split of all samples, and check that each image has one."""
    found = {sample.image.relative_to(root).as_posix(): sample.split for sample in data.samples}
    assert len(found) == len(data.samples)
    return found


def left_out(data, root):
    return {
        reason: [place.removeprefix(f'{root}/') for place in places]
        for reason, places in data.tally.left_out.items()
    }


LAYOUTS = [
    ('{}/images', '{}/labels'),
    ('images/{}', 'labels/{}'),
    ('pics/{}', 'txt/{}'),
    ('{}', '{}'),
    ('{}', '{}/labels'),
]


@pytest.mark.parametrize(('images', 'labels'), LAYOUTS)
def test_labels_go_to_the_images_of_the_parallel_folder(images, labels, root):
    for label, city in enumerate('abc'):
        draw(root, *(f'{images.format(city)}/{i}.png' for i in (1, 2)))
        put(root, LINE.replace('0 ', f'{label} ', 1), f'{labels.format(city)}/1.txt')
        put(root, LINE.replace('0 ', f'{label} ', 1), f'{labels.format(city)}/2.txt')
    put(root, 'a\nb\nc\n', 'classes.txt')
    data = read_data(recognise(root))
    assert len(data.samples) == 6 and data.faults == []
    for sample in data.samples:
        folder = images.format('abc'[sample.labels[0]])
        assert sample.image.parent == root / folder


@pytest.mark.parametrize(('images', 'maps'), [('{}/images', '{}/masks'), ('rgb/{}', 'labels/{}')])
def test_label_maps_go_to_the_images_of_the_parallel_folder(images, maps, root):
    for city in 'abc':
        draw(root, *(f'{folder.format(city)}/1.png' for folder in (images, maps)))
    data = read_data(recognise(root))
    pairs = [(sample.image.parent, sample.map.parent) for sample in data.samples]
    assert pairs == [(root / images.format(c), root / maps.format(c)) for c in 'abc']


def coco_json(root, name):
    image = dict(id=1, file_name='1.png', width=64, height=64)
    box = dict(id=1, image_id=1, category_id=1, bbox=[8, 8, 32, 16])
    content = dict(images=[image], annotations=[box], categories=[dict(id=1, name='car')])
    put(root, json.dumps(content), name)


@pytest.mark.parametrize('name', ['{}/instances.json', 'annotations/{}.json'])
def test_a_coco_json_goes_to_the_images_of_the_parallel_folder(name, root):
    images = '{}/images/1.png' if name.startswith('{}') else 'images/{}/1.png'
    for city in 'abc':
        draw(root, images.format(city))
        coco_json(root, name.format(city))
    data = read_data(recognise(root))
    assert split_of(data, root) == {images.format(city): None for city in 'abc'}


def test_a_coco_json_of_two_folders_of_images_is_refused(root):
    draw(root, 'x/1.png', 'y/1.png')
    coco_json(root, 'annotations/all.json')
    with pytest.raises(UnusableFileError, match=f'is in {root}/x and in {root}/y'):
        recognise(root)


def test_a_label_that_its_own_folder_lacks_is_not_one_of_the_next_folder(root):
    draw(root, 'a/images/1.png', 'b/images/1.png', 'b/images/2.png')
    put(root, DOTA, 'a/labels/1.txt', 'a/labels/2.txt', 'b/labels/1.txt', 'b/labels/2.txt')
    data = read_data(recognise(root))
    assert len(split_of(data, root)) == 3
    assert left_out(data, root) == {'label files without an image': ['a/labels/2.txt']}


@pytest.mark.parametrize('other', ['test/images/2.png', 'c/images/2.png'])
def test_a_label_without_its_image_is_not_one_of_images_without_labels(other, root):
    draw(root, 'train/images/1.png', other)
    put(root, DOTA, 'train/labelTxt/1.txt', 'train/labelTxt/2.txt', 'val/labelTxt/7.txt')
    put(root, 'requirements: mtp\n', 'README.txt')
    data = read_data(recognise(root))
    assert split_of(data, root) == {'train/images/1.png': 'train'}
    assert left_out(data, root) == {
        'label files without an image': ['train/labelTxt/2.txt', 'val/labelTxt/7.txt'],
        'images without labels': [other],
    }


def test_a_label_of_two_images_and_an_image_of_two_labels_are_refused(root):
    draw(root, 'x/1.png', 'y/1.png')
    put(root, DOTA, 'labels/1.txt')
    with pytest.raises(UnusableFileError, match=f'{root}/x and in {root}/y alike'):
        recognise(root)
    (root / 'y' / '1.png').unlink()
    put(root, DOTA, 'old/1.txt')
    with pytest.raises(UnusableFileError, match=f'in {root}/labels and in {root}/old: move one'):
        recognise(root)


def test_flat_labels_are_divided_over_the_folders_of_images(root):
    draw(root, 'images/train/1.png', 'images/val/2.png', 'images/val/3.png')
    put(root, LINE, 'labels/1.txt', 'labels/2.txt', 'labels/7.txt')
    put(root, 'car\n', 'classes.txt')
    data = read_data(recognise(root))
    assert split_of(data, root) == {
        'images/train/1.png': 'train',
        'images/val/2.png': 'val',
        'images/val/3.png': 'val',
    }
    assert left_out(data, root) == {'label files without an image': ['labels/7.txt']}


def test_flat_labels_serve_folders_of_splits(root):
    draw(root, 'train/images/1.png', 'val/images/2.png')
    put(root, DOTA, 'labelTxt/1.txt', 'labelTxt/2.txt')
    data = read_data(recognise(root))
    assert split_of(data, root) == {'train/images/1.png': 'train', 'val/images/2.png': 'val'}
    assert left_out(data, root) == {}


def test_flat_images_are_in_the_split_of_their_label(root):
    draw(root, 'images/1.png', 'images/2.png', 'images/3.png')
    put(root, '', 'images/notes.md')
    put(root, LINE, 'labels/train/1.txt', 'labels/val/2.txt')
    put(root, 'car\n', 'classes.txt')
    data = read_data(recognise(root))
    assert split_of(data, root) == {'images/1.png': 'train', 'images/2.png': 'val'}
    assert all(sample.objects for sample in data.samples)
    assert left_out(data, root) == {
        'files that are no images': ['images/notes.md'],
        'images without labels': ['images/3.png'],
    }


def scene(root, name, left):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(1, 0, left, 0, -1, 5_000_000)
    with rasterio.open(path, 'w', 'GTiff', 64, 64, 3, 'EPSG:32633', transform, 'uint8') as file:
        file.write(np.full((3, 64, 64), left % 200, np.uint8))


def features(root, name, *lefts):
    def square(left):
        x, y = left + 8, 4_999_980
        ring = [[x, y], [x + 16, y], [x + 16, y + 8], [x, y + 8], [x, y]]
        geometry = {'type': 'Polygon', 'coordinates': [ring]}
        return {'type': 'Feature', 'properties': {'kind': 'house'}, 'geometry': geometry}

    crs = {'type': 'name', 'properties': {'name': 'urn:ogc:def:crs:EPSG::32633'}}
    content = {'type': 'FeatureCollection', 'crs': crs, 'features': [*map(square, lefts)]}
    put(root, json.dumps(content), name)


@pytest.mark.parametrize('name', ['all.geojson', 'labels/all.geojson', 'train/all.geojson'])
def test_one_vector_file_is_read_over_the_scenes_of_all_splits(name, root):
    scene(root, 'train/1.tif', 500_000)
    scene(root, 'val/2.tif', 500_064)
    features(root, name, 500_000, 500_064)
    data = read_data(recognise(root))
    assert split_of(data, root) == {'train/1.tif': 'train', 'val/2.tif': 'val'}
    assert [len(sample.objects) for sample in data.samples] == [1, 1]
    assert left_out(data, root) == {}


@pytest.mark.parametrize('name', ['{}/all.geojson', 'labels/{}/all.geojson'])
def test_a_vector_file_of_each_split_is_read_over_its_scenes(name, root):
    scene(root, 'train/1.tif', 500_000)
    scene(root, 'val/2.tif', 500_064)
    features(root, name.format('train'), 500_000)
    features(root, name.format('val'), 500_064)
    data = read_data(recognise(root))
    assert split_of(data, root) == {'train/1.tif': 'train', 'val/2.tif': 'val'}
    assert [len(sample.objects) for sample in data.samples] == [1, 1]


def test_vector_files_go_to_the_scenes_of_their_folder(root):
    for number, city in enumerate('ab'):
        scene(root, f'{city}/1.tif', 500_000 + 64 * number)
        features(root, f'{city}/1.geojson', 500_000 + 64 * number)
    data = read_data(recognise(root))
    assert split_of(data, root) == {'a/1.tif': None, 'b/1.tif': None}
    assert [len(sample.objects) for sample in data.samples] == [1, 1] and data.faults == []


def described(root, folders, yaml):
    for folder in folders:
        draw(root, *(f'images/{folder}/{folder}{i}.png' for i in (1, 2)))
        put(root, LINE, *(f'labels/{folder}/{folder}{i}.txt' for i in (1, 2)))
    put(root, f'{yaml}names: [car]\n', 'data.yaml')
    return read_data(recognise(root))


def test_the_folders_that_a_description_names_are_the_splits(root):
    data = described(root, 'ab', 'train: images/a\nval: images/b\n')
    assert split_of(data, root) == {
        'images/a/a1.png': 'train',
        'images/a/a2.png': 'train',
        'images/b/b1.png': 'val',
        'images/b/b2.png': 'val',
    }
    assert [part.split for part in data.found.parts] == ['train', 'val']


def test_what_a_description_does_not_name_is_left_out(root):
    put(root, 'no label', 'labels/old/old1.txt')
    data = described(root, ('train', 'val', 'old'), 'train: images/train\nval: images/val\n')
    assert {sample.split for sample in data.samples} == {'train', 'val'}
    assert left_out(data, root) == {
        'images in no split of data.yaml': ['images/old/old1.png', 'images/old/old2.png']
    }


def test_one_folder_named_as_two_splits_is_noted(root):
    data = described(root, ('train', 'val'), 'train: images/train\nval: images/train\n')
    assert len(data.samples) == 2 and len(left_out(data, root)) == 1
    assert 'names images/train as train and as val' in data.tally.notes[0]
    put(root, 'train: images/train\nval: images/val\ntest: images/val\nnames: [car]', 'data.yaml')
    data = read_data(recognise(root))
    assert [sample.split for sample in data.samples] == ['train', 'train', 'val', 'val']
    assert 'it is read as val alone' in data.tally.notes[0]


def test_a_named_folder_within_another_or_without_images_is_noted(root):
    (root / 'images/none').mkdir(parents=True)
    yaml = 'train: images\nval: images/val\ntest: images/none\n'
    data = described(root, ('train', 'val'), yaml)
    assert [sample.split for sample in data.samples] == ['train', 'train', 'val', 'val']
    without, within = sorted(data.tally.notes, key=lambda note: 'it is in images' in note)[:2]
    assert 'names 1 folders or files without images' in without and 'images/none' in without
    assert 'names images/' in within and 'in images, the folder of train' in within


def test_lists_of_a_description_are_the_splits(root):
    draw(root, *(f'images/{i}.png' for i in (1, 2, 3)))
    put(root, LINE, *(f'labels/{i}.txt' for i in (1, 2, 3)))
    put(root, './images/1.png\n', 'train.txt')
    put(root, 'images/2.png\n\n', 'val.txt')
    put(root, 'train: train.txt\nval: val.txt\nnames: [car]\n', 'data.yaml')
    data = read_data(recognise(root))
    assert split_of(data, root) == {'images/1.png': 'train', 'images/2.png': 'val'}
    assert left_out(data, root) == {'images in no split of data.yaml': ['images/3.png']}
    put(root, 'images/2.png\nimages/8.png\n', 'val.txt')
    with pytest.raises(UnusableFileError, match="val.txt, line 2: no image 'images/8.png'"):
        recognise(root)


def test_a_split_of_a_description_outside_of_its_root_is_refused(root):
    put(root, LINE, '../other/labels/1.txt')
    with pytest.raises(UnusableFileError, match='not below .*: give `path`'):
        described(root, ('train',), 'train: images/train\nval: ../other\n')


def test_pairs_are_divided_below_their_dates(root):
    names = ('train/1', 'train/2', 'val/3')
    draw(root, *(f'{folder}/{name}.png' for folder in ('A', 'B', 'label') for name in names))
    data = read_data(recognise(root))
    assert data.found.form == 'pairs' and data.faults == []
    assert split_of(data, root) == {f'A/{name}.png': name.split('/')[0] for name in names}
    assert all(sample.later.parent.parent == root / 'B' for sample in data.samples)


def test_flat_change_maps_serve_dates_that_are_divided(root):
    draw(root, *(f'{folder}/{name}.png' for folder in 'AB' for name in ('train/1', 'val/2')))
    draw(root, 'label/1.png', 'label/2.png', 'label/3.png')
    data = read_data(recognise(root))
    assert split_of(data, root) == {'A/train/1.png': 'train', 'A/val/2.png': 'val'}
    assert left_out(data, root) == {'label maps without an image': ['label/3.png']}
    draw(root, 'A/val/1.png', 'B/val/1.png')
    with pytest.raises(UnusableFileError, match=f'{root}/label: its file .1. fits .* alike'):
        recognise(root)


def coco(root):
    draw(root, 'images/1.png', 'images/2.png')
    coco_json(root, 'instances.json')
    return 'images/2.png'


def without_label_file(root):
    draw(root, 'train/images/1.png', 'test/images/9.png')
    put(root, DOTA, 'train/labelTxt/1.txt')
    return 'test/images/9.png'


def beside_classes(root):
    draw(root, 'a/1.png', 'b/1.png', '9.png')
    return '9.png'


def one_date_alone(root):
    draw(root, *(f'{folder}/1.png' for folder in ('A', 'B', 'label')), 'B/2.png')
    return 'B/2.png'


@pytest.mark.parametrize('make', [coco, without_label_file, beside_classes, one_date_alone])
def test_images_without_labels_are_counted(make, root):
    name = make(root)
    data = read_data(recognise(root))
    assert left_out(data, root) == {'images without labels': [name]} and data.faults == []


def test_images_of_no_list_and_maps_beside_other_labels_are_counted(root):
    draw(root, *(f'images/{i}.png' for i in (1, 2, 3)), 'masks/1.png')
    put(root, DOTA, *(f'labelTxt/{i}.txt' for i in (1, 2, 3)))
    put(root, '1\n', 'ImageSets/train.txt')
    put(root, '2\n', 'ImageSets/val.txt')
    data = read_data(recognise(root))
    assert [sample.split for sample in data.samples] == ['train', 'val']
    assert left_out(data, root) == {
        'images in no list of a split': ['images/3.png'],
        'label maps that are not read': ['masks/1.png'],
    }


def test_maps_that_the_import_makes_are_not_counted(root, tmp_path):
    draw(root, 'images/1.png', 'images/2.png')
    ring = [8, 8, 40, 8, 40, 24, 8, 24]
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=64) for i in (1, 2)]
    boxes = [
        dict(id=i, image_id=i, category_id=1, bbox=[8, 8, 32, 16], segmentation=[ring])
        for i in (1, 2)
    ]
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name='car')])
    put(root, json.dumps(content), 'instances.json')
    import_data(read_data(recognise(root)), tmp_path / 'made', Options())
    data = read_data(recognise(tmp_path / 'made'))
    assert {sample.split for sample in data.samples} == {'train', 'val'}
    assert left_out(data, root) == {} and data.tally.notes == []


def test_images_with_a_fault_are_not_counted_as_without_labels(root):
    draw(root, 'images/1.png', 'images/2.png')
    put(root, DOTA, 'labelTxt/1.txt')
    data = read_data(recognise(root))
    assert len(data.faults) == 1 and left_out(data, root) == {}


def test_a_description_with_splits_imports_as_it_says(root, tmp_path):
    data = described(root, 'ab', 'train: images/a\nval: images/b\n')
    report = import_data(data, tmp_path / 'made', Options())
    assert report.made['train images'] == report.made['val images'] == 2
