"""Data of one's own in a COCO json: what is read, what is counted, what is refused."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtp.data import COCODetection, LoadImage
from mtp.evaluation import DetectionMetric
from mtp.files import UnusableFileError

CLASSES = ('plane', 'small-vehicle')


def box(number, category=7, image=1, bbox=(10, 10, 20, 8), **others):
    return dict(id=number, image_id=image, category_id=category, bbox=list(bbox), **others)


@pytest.fixture
def content(tmp_path):
    """Two images, named against the order of their ids, and a class in another case."""
    for name in ('train/b 1.v2.png', 'train/sub/a.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    return dict(
        images=[
            dict(id=1, file_name='sub/a.png', height=48, width=64),
            dict(id=0, file_name='b 1.v2.png', height=48, width=64),
        ],
        annotations=[box(1), box(2, 3), box(3, 7, 0)],
        categories=[dict(id=7, name='Small Vehicle'), dict(id=3, name='plane')],
    )


def read(root, content, name='train.json', **changes):
    (root / name).write_text(json.dumps(content))
    options = dict(
        classes=CLASSES, serialize_data=False, data_prefix=dict(img='train'), data_root=str(root)
    )
    return COCODetection(**{**options, 'ann_file': name, **changes})


def labels(dataset):
    return [
        [each['bbox_label'] for each in dataset.get_data_info(i)['instances']]
        for i in range(len(dataset))
    ]


def test_names_decide_and_images_come_by_name(tmp_path, content):
    dataset = read(tmp_path, content)
    assert [dataset.get_data_info(i)['img_id'] for i in range(2)] == [0, 1]
    assert labels(dataset) == [[1], [1, 0]]
    assert dataset.tally.summary() == 'images 2, objects 3'
    assert dataset.tally.of_class == {'plane': 1, 'small-vehicle': 2}
    assert dataset.tally.notes == ["'Small Vehicle' is read as the class 'small-vehicle'"]


def test_categories_twice_without_objects_and_missing_are_noted(tmp_path, content):
    content['categories'] = [
        dict(id=0, name='project'), dict(id=3, name='plane'), dict(id=7, name='Plane')
    ]  # fmt: skip
    dataset = read(tmp_path, content)
    assert labels(dataset) == [[0], [0, 0]]
    notes = '\n'.join(dataset.tally.notes)
    for text in (
        "train.json: the category 'project' is no class",
        "the categories 3 and 7 are read as one class, 'plane'",
        "no category for the class 'small-vehicle'",
    ):
        assert text in notes


def test_numbers_in_texts_and_windows_paths_are_read(tmp_path, content):
    for kind, keys in dict(
        images=('id', 'height'), annotations=('image_id', 'category_id')
    ).items():
        for entry in content[kind]:
            entry.update({key: str(entry[key]) for key in keys})
    content['images'][0]['file_name'] = 'sub\\a.png'
    content['categories'] = [dict(id=7.0, name='small-vehicle'), dict(id=3.0, name='plane')]
    assert labels(read(tmp_path, content)) == [[1], [1, 0]]


def test_what_is_left_out_is_counted(tmp_path, content):
    content['annotations'] += [
        box(4, bbox=(5, 5, 0.5, 9)),
        box(5, bbox=(64, 5, 9, 9)),
        box(6, bbox=(-5, -5, 9, 9), area=0),
        box(7, iscrowd=1),
        box(8, ignore=1),
        box(9, segmentation=[[10, 10, 20, 10, 20, 18]]),
    ]
    content['images'].append(dict(id=9, file_name='c.png', height=20, width=64))
    cv2.imwrite(str(tmp_path / 'train/c.png'), np.zeros((20, 64, 3), np.uint8))
    for name in ('more.jpg', 'of_val.png', 'notes.txt', 'sub/more.PNG'):
        (tmp_path / 'train' / name).touch()
    (tmp_path / 'val.json').write_text('{"images": [{"file_name": "of_val.png"}]}')
    dataset = read(tmp_path, content, filter_cfg=dict(filter_empty_gt=True, min_size=32))
    assert dataset.tally.summary() == (
        'images 2, objects 5, ignored 1: crowds, left out 6: 2 images without an entry, '
        '1 objects without area, 1 objects outside of their image, 1 objects with "ignore", '
        '1 images without objects'
    )
    assert any(
        re.search(r'train\.json, annotation 4 of sub/a\.png: left out', line)
        for line in dataset.tally.lines()
    )
    found = dataset.get_data_info(1)['instances']
    assert [each['area'] for each in found] == [160, 160, 81, 160, pytest.approx(40, abs=9)]
    assert [each['ignore_flag'] for each in found] == [0, 0, 0, 1, 0]
    tested = read(tmp_path, content, filter_cfg=dict(filter_empty_gt=True), test_mode=True)
    assert len(tested) == 3


def edit(kind, number, **values):
    def change(content):
        content[kind][number].update(values)
        content[kind][number] = {k: v for k, v in content[kind][number].items() if v is not None}

    return change


FAULTS = {
    'category unknown': (
        edit('categories', 1, name='plain'), r"category 3, of 1 objects: 'plain' .*mean plane"
    ),
    'no category fits': (
        lambda content: content.update(categories=[dict(id=1, name='ship')], annotations=[]),
        r"none of its categories \('ship'\) is a class; the classes are plane",
    ),
    'image twice': (edit('images', 1, id=1), r'two images have the id 1 \(sub/a.png and b 1'),
    'file twice': (edit('images', 1, file_name='./sub/a.png'), 'the images 1 and 0 are both of'),
    'annotation twice': (edit('annotations', 1, id=1), 'two annotations have the id 1'),
    'category id twice': (edit('categories', 1, id=7), 'two categories have the id 7'),
    'missing on disk': (
        edit('images', 0, file_name='sub/A.jpg'), r'1 of 2 images are missing.*A.jpg \(there is a.p'
    ),
    'no size': (edit('images', 0, height=None), r'image 1 \(sub/a.png\): height None.*give'),
    'exchanged corners': (edit('annotations', 0, bbox=[30, 20, -9, 5]), 'annotation 1.*negative'),
    'not finite': (edit('annotations', 0, bbox=[30, 20, float('nan'), 5]), 'annotation 1.*finite'),
    'no images': (lambda content: content.update(images=[]), 'lists no images'),
    'no objects': (
        lambda content: content.update(annotations=[]),
        r'no image is left \(images 0, .*left out 2: images without objects\).*plane, small',
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', FAULTS)
def test_what_has_no_one_meaning_is_named(tmp_path, content, name):
    change, message = FAULTS[name]
    change(content)
    with pytest.raises(UnusableFileError, match=rf'train\.json.*{message}'):
        read(tmp_path, content, filter_cfg=dict(filter_empty_gt=True))


@pytest.mark.parametrize(
    'options', [dict(classes='plane'), dict(classes=None), dict(dataset='dior')]
)
def test_classes_are_given_once_as_a_sequence(tmp_path, content, options):
    with pytest.raises(ValueError, match='classes'):
        read(tmp_path, content, **options)


def test_labels_of_an_image_as_stored_are_refused_where_training_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (64, 48)).save(path, exif=exif)
    record = dict(img_path=str(path), height=48, width=64)
    with pytest.raises(UnusableFileError, match='turned by its EXIF orientation 6'):
        LoadImage().transform(record)
    assert LoadImage().transform(dict(record, height=64, width=48))['img_shape'] == (64, 48)
    with pytest.raises(UnusableFileError, match='make the labels again'):
        LoadImage().transform(dict(record, height=64, width=40))


def test_figures_are_those_of_the_objects_that_the_reader_took(tmp_path, content):
    """The figures are pycocotools' of mended data, with each category once, in order."""
    rng = np.random.default_rng(0)
    content['categories'] = [
        dict(id=9, name='Small vehicle'), dict(id=1, name='plane'), dict(id=2, name='small-vehicle')
    ]  # fmt: skip
    content['annotations'] = [
        box(i + 1, (9, 1, 2)[i % 3], i % 2, (*rng.integers(0, 40, 2).tolist(), 9, 9 + i),
            iscrowd=int(i == 5), area=9 * (9 + i) / 2)
        for i in range(12)
    ]  # fmt: skip
    mended = json.loads(json.dumps(content))
    mended['categories'] = [dict(id=0, name='plane'), dict(id=1, name='small-vehicle')]
    for annotation in mended['annotations']:
        annotation['category_id'] = int(annotation['category_id'] != 1)
    content['annotations'] += [box(90, 1, bbox=(70, 70, 9, 9)), box(91, 1, ignore=1)]
    dataset = read(tmp_path, content, test_mode=True)

    samples, results = [], []
    for record in map(dataset.get_data_info, range(2)):
        boxes = torch.tensor([each['bbox'] for each in record['instances']]).float()
        boxes += torch.from_numpy(rng.integers(-1, 2, boxes.shape)).float()
        scores = torch.from_numpy(rng.random(len(boxes)))
        classes = torch.tensor([each['bbox_label'] for each in record['instances']])
        classes[0] = 0
        results += [
            dict(image_id=record['img_id'], category_id=label, score=score,
                 bbox=[x1, y1, x2 - x1, y2 - y1])
            for (x1, y1, x2, y2), score, label in zip(
                boxes.tolist(), scores.tolist(), classes.tolist())
        ]  # fmt: skip
        found = dict(bboxes=boxes, scores=scores, labels=classes)
        samples.append(dict(record, pred_instances=found))
    reference = COCO()
    reference.dataset = mended
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(results), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()

    metric = DetectionMetric()
    metric.dataset_meta = dataset.metainfo
    metric.process({}, samples)
    figures = list(metric.evaluate(2).values())[:6]  # those of single classes follow
    assert 0.1 < figures[0] < 0.9
    assert figures == pytest.approx(evaluation.stats[:6].tolist(), abs=1e-12)
    del samples[0]['instances']
    with pytest.raises(ValueError, match='meta_keys'):
        metric.process({}, samples)
