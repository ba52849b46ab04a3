"""The SAMRS reader: every layout, and what is wrong with a data set."""

import json
import pickle

import numpy as np
import pytest

from mtp.data import SUBSETS, MultiTaskDataset, SAMRSDataset
from mtp.data.packed import pack
from mtp.data.rotated_labels import read_rotated
from mtp.data.run_lengths import decode_mask
from mtp.data.samrs.subsets import PALETTE
from mtp.data.tally import Tally
from tests.data.small import CLASSES, make_subset

LABELS = {name: i for i, name in enumerate(CLASSES)}


@pytest.mark.parametrize('subset', SUBSETS)
def test_every_layout(tmp_path, subset):
    dataset = SAMRSDataset(subset, make_subset(tmp_path, subset), classes=CLASSES, name='mine')
    assert len(dataset) == 3
    assert dataset.metainfo['name'] == 'mine' and dataset.metainfo['classes'] == CLASSES
    info = dataset.get_data_info(2)
    assert (info['height'], info['width'], info['num_classes']) == (96, 120, 3)
    expected = [LABELS[name] for name in ('ship', 'plane', 'ship', 'harbor')]
    labels = info['labels']
    assert labels.labels.tolist() == labels.rotated_labels.tolist() == expected
    assert labels.boxes.shape == (4, 4) and labels.rotated.shape == (4, 5)
    assert decode_mask(dict(size=(96, 120), counts=labels.counts[1]), 96, 120).any()


def test_official_facts():
    assert [len(SUBSETS[name].classes) for name in ('sota', 'sior', 'fast')] == [18, 20, 37]
    assert len(PALETTE) == 37 == len(set(PALETTE))


def test_labels_go_by_name_not_by_place(tmp_path):
    root = make_subset(tmp_path)
    shuffled = ('harbor', 'plane', 'ship')
    tasks = ('instance', 'rotated')
    found = SAMRSDataset('sota', root, classes=shuffled, tasks=tasks).get_data_info(0)['labels']
    for labels in (found.labels, found.rotated_labels):
        assert [shuffled[label] for label in labels] == ['ship', 'plane', 'ship', 'harbor']
    with pytest.raises(ValueError, match='0: plane.*not in the order of the classes'):
        SAMRSDataset('sota', root, classes=shuffled, tasks=('semantic',))


def test_unusable_annotations_are_left_out(tmp_path):
    root = make_subset(tmp_path, sizes=((128, 128),))
    path = root / 'trainval/sota_rbb_train_ins_segmentation.json'
    coco = json.loads(path.read_text())
    good = coco['annotations'][0]
    coco['annotations'] += [
        dict(good, id=10, bbox=[200, 0, 10, 10]),
        dict(good, id=11, bbox=[5, 5, 0.5, 9]),
        dict(good, id=12, area=0),
        dict(good, id=13, iscrowd=1),
    ]
    path.write_text(json.dumps(coco))
    for _ in range(2):  # the second from the index
        dataset = SAMRSDataset('sota', root, classes=CLASSES)
        labels = dataset.get_data_info(0)['labels']
        assert labels.crowd.tolist() == [False] * 5 + [True], 'a wrong area is no reason'
        assert dataset.tally.summary() == (
            'images 1, objects 5, ignored 1: crowds, left out 2: 1 objects outside of their image, '
            '1 objects without area'
        )
        assert f'{path}, annotation 11 of train_0.png' in list(dataset.tally.lines())[1]
        assert dataset.tally.of_class['ship'] == 3


def test_categories_twice_and_texts_as_ids(tmp_path):
    root = make_subset(tmp_path, sizes=((128, 128),))
    path = root / 'trainval/sota_rbb_train_ins_segmentation.json'
    coco = json.loads(path.read_text())
    coco['categories'].append(dict(id=3, name='Ship'))
    coco['annotations'][0]['category_id'] = '3'
    coco['images'][0]['id'] = 'first'
    for annotation in coco['annotations']:
        annotation['image_id'] = 'first'
    path.write_text(json.dumps(coco))
    dataset = SAMRSDataset('sota', root, classes=CLASSES, tasks=('instance', 'rotated'))
    assert [CLASSES[label] for label in dataset.get_data_info(0)['labels'].labels] == [
        'ship', 'plane', 'ship', 'harbor'
    ]  # fmt: skip
    assert any("read as one class, 'ship'" in note for note in dataset.tally.notes)
    with pytest.raises(ValueError, match=r'3: ship\) are not in the order'):
        SAMRSDataset('sota', root, classes=CLASSES)


def test_rotated_boxes_without_area_are_left_out_and_counted(tmp_path):
    root = make_subset(tmp_path)
    path = root / 'trainval/rbbtxts/train_0.txt'
    path.write_text(path.read_text() + '70 70 80 80 90 90 100 100 ship 0\n')
    for _ in range(2):  # the second one reads the index
        dataset = SAMRSDataset('sota', root, classes=CLASSES)
        assert len(dataset.get_data_info(0)['labels'].rotated) == 4
        assert dataset.tally.left_out == {'objects without area': [f'{path}, line 7']}


def test_the_index_follows_the_labels(tmp_path):
    root = make_subset(tmp_path)

    def first():
        return SAMRSDataset('sota', root, classes=CLASSES).get_data_info(0)['labels']

    before = SAMRSDataset('sota', root, classes=CLASSES)
    path = root / 'trainval/rbbtxts/train_0.txt'
    path.write_text('0 0 4 0 4 2 0 2 ship 0\n')
    assert first().rotated_labels.tolist() == [1]
    assert len(before.get_data_info(0)['labels'].rotated) == 4, 'an open index stays readable'
    path = root / 'trainval/sota_rbb_train_ins_segmentation.json'
    coco = json.loads(path.read_text())
    path.write_text(json.dumps(dict(coco, annotations=coco['annotations'][1:])))
    assert len(first().boxes) == 3
    assert len(list((root / '.mtp_index').iterdir())) == 1, 'nothing old is left'
    with pytest.raises(IndexError):
        before[3]


def test_another_process_maps_the_index_and_copies_nothing(tmp_path):
    dataset = SAMRSDataset('sota', make_subset(tmp_path), classes=CLASSES)
    copy = pickle.loads(pickle.dumps(dataset.index))
    assert len(pickle.dumps(dataset.index)) < 1000
    assert copy[2].counts == dataset.index[2].counts and copy[2].file_name == 'train_2.png'


def test_a_mask_of_another_size_is_named(tmp_path):
    root = make_subset(tmp_path)
    path = root / 'trainval/sota_rbb_train_ins_segmentation.json'
    coco = json.loads(path.read_text())
    coco['annotations'][2]['segmentation']['size'] = [64, 64]
    path.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r'annotation 2 of train_0.png.*\(64, 64\).*\(128, 128\)'):
        SAMRSDataset('sota', root, classes=CLASSES)


def test_tasks_can_be_left_out(tmp_path):
    root = make_subset(tmp_path)
    dataset = SAMRSDataset('sota', root, classes=CLASSES, tasks=('semantic',))
    assert len(dataset.get_data_info(0)['labels'].rotated) == 0
    assert dataset.metainfo['tasks'] == ('semantic',)


@pytest.mark.parametrize(
    'arguments, error, message',
    [
        (dict(subset='dota'), ValueError, 'no subset'),
        (dict(tasks=('semantic', 'depth')), ValueError, 'tasks'),
        (dict(split='valid'), FileNotFoundError, 'samrs-to-coco'),
        (dict(data_root='nowhere'), FileNotFoundError, 'docs/pretraining.md'),
        (
            dict(classes=('plane', 'ship')),
            ValueError,
            "category 2, of 3 objects: 'harbor' is no class",
        ),
    ],
)
def test_wrong_arguments(tmp_path, arguments, error, message):
    root = make_subset(tmp_path)
    with pytest.raises(error, match=message):
        SAMRSDataset(
            **dict(dict(subset='sota', data_root=root, classes=CLASSES), **arguments)
        ).full_init()


def test_rotated_files(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('gsd:0.3\n0 0 4 0 4 2 0 2 ship 1\n0 0 1 0 2 0 3 0 ship 0\n')
    tally = Tally()
    assert read_rotated(path, LABELS, tally) == [
        dict(bbox=[0, 0, 4, 0, 4, 2, 0, 2], bbox_label=1, place=f'{path}, line 2')
    ]
    assert tally.left_out == {'objects without area': [f'{path}, line 3']}
    path.write_text('0 0 4 0 4 2 0 2 tank 0\n')
    with pytest.raises(ValueError, match=r"a.txt, line 1: 'tank' is no class"):
        read_rotated(path, LABELS)
    path.write_text('0 0 4 0\n')
    with pytest.raises(ValueError, match='line 1.*x1 y1'):
        read_rotated(path, LABELS)
    with pytest.raises(FileNotFoundError, match="leave 'rotated' out"):
        read_rotated(tmp_path / 'b.txt', LABELS)
    xml = tmp_path / 'a.xml'
    xml.write_text('<annotation><object><name>ship</name></object></annotation>')
    with pytest.raises(ValueError, match='line 1: the object has no robndbox'):
        read_rotated(xml, LABELS)
    xml.write_text('<annotation><object>')
    with pytest.raises(ValueError, match='no whole xml'):
        read_rotated(xml, LABELS)


def test_real_dior_file(shared):
    (path,) = (shared / 'data' / 'dior_r').rglob('*.xml')
    labels = {name: i for i, name in enumerate(SUBSETS['sior'].classes)}
    assert read_rotated(path, labels)


def test_real_dota_files(shared):
    labels = {name: i for i, name in enumerate(SUBSETS['sota'].classes)}
    files = sorted((shared / 'data' / 'dota_samples').rglob('P*.txt'))
    assert sum(len(read_rotated(path, labels)) for path in files) > 100


def test_names_must_differ(tmp_path):
    root = make_subset(tmp_path)
    one = SAMRSDataset('sota', root, classes=CLASSES)
    with pytest.raises(ValueError, match='a `name` of its own'):
        MultiTaskDataset([one, one])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize(
    ('name', 'damage'),
    [
        ('stamp.json', lambda path: path.write_bytes(b'')),
        ('digests.json', lambda path: path.write_bytes(b'{}')),
        ('digests.json', lambda path: path.unlink()),  # of an earlier version
        ('boxes.npy', lambda path: path.write_bytes(b'')),
        ('boxes.npy', lambda path: path.write_bytes(path.read_bytes()[:-16])),
        ('boxes.npy', flip),
        ('object_ends.npy', lambda path: np.save(path, np.load(path) * 0 + 1)),
        ('names.npy', lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
        ('names.npy', lambda path: path.unlink()),
    ],
)
def test_a_damaged_index_is_made_again(tmp_path, name, damage):
    root = make_subset(tmp_path)
    before = SAMRSDataset('sota', root, classes=CLASSES)
    expected = [before[i]['labels'].boxes.tolist() for i in range(len(before))]
    damage(before.index.folder / name)
    after = SAMRSDataset('sota', root, classes=CLASSES)
    assert [after[i]['labels'].boxes.tolist() for i in range(len(after))] == expected


def test_boxes_stand_for_masks_where_there_are_none(tmp_path):
    root = make_subset(tmp_path, sizes=((128, 128),))
    path = root / 'trainval/sota_rbb_train_ins_segmentation.json'
    coco = json.loads(path.read_text())
    boxes = [[10, 20, 30, 8], [-5, 100, 9.5, 40], [9.5, 9.5, 1, 1], [0, 0, 128, 128]]
    for annotation, box in zip(coco['annotations'], boxes, strict=True):
        annotation['bbox'] = box
        del annotation['segmentation']
    path.write_text(json.dumps(coco))
    asked = dict(classes=CLASSES, tasks=('instance',))
    with pytest.raises(ValueError, match='segmentation'):
        SAMRSDataset('sota', root, **asked)
    dataset = SAMRSDataset('sota', root, masks=False, **asked)
    labels = dataset.get_data_info(0)['labels']
    shown = [(10, 20, 40, 28), (0, 100, 5, 128), (10, 10, 11, 11), (0, 0, 128, 128)]
    for counts, (x1, y1, x2, y2) in zip(labels.counts, shown, strict=True):
        expected = np.zeros((128, 128), np.uint8)
        expected[y1:y2, x1:x2] = 1
        assert (decode_mask(dict(size=(128, 128), counts=counts), 128, 128) == expected).all()
    assert dataset.metainfo['masks'] is False
    with pytest.raises(ValueError, match='boxes without masks'):
        pack(dataset, tmp_path / 'packed', workers=1)
