"""From a folder in any common form to a config; tests/test_your_data.py trains on it."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from PIL import Image

from mtp.cli.config_check import check_config
from mtp.cli.own_training import Request, choose_weights, own_config
from mtp.data import BoxFilesDetection
from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.inspection import draw_page, inspect, report
from mtp.data.own.recognition import recognise
from mtp.data.own.splitting import divide
from mtp.files import UnusableFileError
from mtp.sample_fields import pack_batch

pytestmark = pytest.mark.usefixtures('few_objects')

SIDE, NUMBER = 64, 6  # of the images
CORNERS = [(8, 8), (40, 8), (40, 24), (8, 24)]  # on multiples of 8 pixels: exact in every form
NAMES = ('car', 'plane')


def draw(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((SIDE, SIDE, 3), value, np.uint8)
    cv2.imwrite(str(path), image)


def each_image(root, folder='images'):
    for number in range(NUMBER):
        draw(root / folder / f'{number}.png', 20 + number + 100 * (root.name == 'val'))
        yield number, NAMES[number % 2]


def coco(root, masks=False):
    images, annotations = [], []
    for number, name in each_image(root):
        images.append(dict(id=number, file_name=f'{number}.png', height=SIDE, width=SIDE))
        polygon = dict(segmentation=[[v for point in CORNERS for v in point]]) if masks else {}
        annotations.append(
            dict(
                id=number + 1,
                image_id=number,
                category_id=NAMES.index(name) + 1,
                bbox=[8, 8, 32, 16],
                area=512,
                iscrowd=0,
                **polygon,
            )
        )
    categories = [dict(id=i, name=name) for i, name in enumerate(NAMES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'instances.json').write_text(json.dumps(content))


def text_of(root, folder, line, suffix='.txt'):
    for number, name in each_image(root):
        path = root / folder / f'{number}{suffix}'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line(name))


def yolo(root):
    text_of(root, 'labels', lambda name: f'{NAMES.index(name)} 0.375 0.25 0.5 0.25\n')
    (root / 'classes.txt').write_text('\n'.join(NAMES))


def yolo_obb(root):
    shares = ' '.join(f'{v / SIDE}' for point in CORNERS for v in point)
    text_of(root, 'labels', lambda name: f'{NAMES.index(name)} {shares}\n')
    (root / 'data.yaml').write_text(f'train: images\nval: images\nnames: {list(NAMES)}\n')


def dota(root):
    corners = ' '.join(f'{v}' for point in CORNERS for v in point)
    text_of(root, 'labelTxt', lambda name: f'imagesource:x\ngsd:1\n{corners} {name} 0\n')


def voc(root):
    def xml(name):
        box = '<bndbox><xmin>8</xmin><ymin>8</ymin><xmax>40</xmax><ymax>24</ymax></bndbox>'
        return f'<annotation><object><name>{name}</name>{box}</object></annotation>'

    text_of(root, 'Annotations', xml, '.xml')


def fair1m(root):
    points = ''.join(f'<point>{x},{y}</point>' for x, y in [*CORNERS, CORNERS[0]])

    def xml(name):
        result = f'<possibleresult><name>{name}</name></possibleresult>'
        return f'<a><objects><object>{result}<points>{points}</points></object></objects></a>'

    text_of(root, 'labelXml', xml, '.xml')


def maps(root):
    for number, _ in each_image(root):
        path = root / 'masks' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.eye(SIDE, dtype=np.uint8))
    (root / 'data.yaml').write_text('train: images\nnames: [ground, road]\n')


def pairs(root):
    for folder in ('A', 'B'):
        for _ in each_image(root, folder):
            pass
    for number in range(NUMBER):
        path = root / 'label' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.eye(SIDE, dtype=np.uint8) * 255)


def class_folders(root):
    for number in range(NUMBER):
        draw(root / NAMES[number % 2] / f'{number}.png', 20 + number)


# maker -> form, task, objects
FORMS = {
    coco: ('coco', 'horizontal_detection', NUMBER),
    yolo: ('yolo', 'horizontal_detection', NUMBER),
    voc: ('voc', 'horizontal_detection', NUMBER),
    dota: ('dota', 'rotated_detection', NUMBER),
    yolo_obb: ('yolo_obb', 'rotated_detection', NUMBER),
    fair1m: ('fair1m', 'rotated_detection', NUMBER),
    maps: ('maps', 'segmentation', None),
    pairs: ('pairs', 'change_detection', None),
    class_folders: ('classes', 'classification', None),
}


def read(root, form=None):
    return read_data(recognise(root, form))


@pytest.mark.parametrize('make', FORMS, ids=lambda make: make.__name__)
def test_each_form_is_recognised_and_imported(make, tmp_path):
    form, task, objects = FORMS[make]
    make(tmp_path / 'mine')
    given = form if form == 'yolo_obb' else None
    data = read(tmp_path / 'mine', given)
    found = inspect(data)
    assert (data.found.form, found.task, found.faults) == (form, task, [])
    assert data.tally.objects == objects and data.tally.images == NUMBER
    assert 'faults: none' in report(found) and draw_page(data).size

    done = import_data(data, tmp_path / 'made', Options(train=0.7))
    assert done.bad == []
    again = read(tmp_path / 'made')
    assert again.tally.images == NUMBER and again.classes == (data.classes or ('ground', 'road'))
    boxes = {
        sample.image.stem: [(each.label, each.box.corners.tolist()) for each in sample.objects]
        for sample in again.samples
    }
    if objects:
        expected = [list(map(float, point)) for point in CORNERS]
        assert boxes == {str(i): [(i % 2, expected)] for i in range(NUMBER)}


def test_lines_of_nine_numbers_need_the_format(tmp_path):
    yolo_obb(tmp_path)
    with pytest.raises(UnusableFileError, match='--format yolo or --format yolo_obb'):
        recognise(tmp_path)


def test_masks_are_imported_for_all_three_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coco(tmp_path / 'mine', masks=True)
    path, work_dir, lines = own_config(Request([Path('mine')], 'vit_tiny_rvsa', 'none'))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert 'task: pretraining' in lines and len(dataset) + 1 <= NUMBER
    (record,) = {
        tuple(entry['labels'].boxes[0].tolist())
        for entry in map(dataset.datasets[0].get_data_info, range(len(dataset)))
    }
    assert record == (8, 8, 40, 24)
    # a second start uses the config as it may have been edited
    assert own_config(Request([Path('mine')], 'vit_tiny_rvsa', 'none'))[0] == path


def test_objects_are_drawn_as_they_are_outlined(tmp_path):
    coco(tmp_path, masks=True)
    path = tmp_path / 'instances.json'
    content = json.loads(path.read_text())
    for each in content['annotations']:
        each['segmentation'] = [[8, 8, 40, 8, 8, 24]]
    path.write_text(json.dumps(content))
    page = draw_page(read(tmp_path))
    scale = 320 // SIDE
    corner, edge = (
        page[23 * scale : 25 * scale, 38 * scale : 42 * scale],
        page[12 * scale, 8 * scale],
    )
    assert np.ptp(corner) <= 1 and np.ptp(edge) > 1


@pytest.mark.parametrize('make', [voc, dota, maps, pairs, coco], ids=lambda make: make.__name__)
def test_the_planned_side_is_that_of_the_images(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'mine')
    path, _, lines = own_config(Request([Path('mine')], 'vit_tiny_rvsa', 'none'))
    cfg = Config.fromfile(path)
    (side,) = {int(line.split()[2].rstrip(':')) for line in lines if line.startswith('image side')}
    init_default_scope(cfg.default_scope)
    sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    # images of 64 pixels grow to the smallest side that models take
    assert cfg.model.backbone.img_size == side == 224
    assert max(sample['inputs'].shape[1:]) <= side
    if make in (voc, dota):
        assert max(sample['inputs'].shape[1:]) == side
        assert max(DATASETS.build(cfg.test_dataloader.dataset)[0]['inputs'].shape[1:]) == side


def test_a_plan_counts_the_images_that_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, number in (('train', 5), ('val', 1)):
        folder = tmp_path / 'mine' / split
        dota(folder)
        for path in list((folder / 'labelTxt').iterdir())[number:]:
            path.write_text('')

    def images(keep_empty, name):
        asked = Request(
            [Path('mine')],
            'vit_tiny_rvsa',
            'none',
            work_dir=Path(name),
            keep_empty=keep_empty,
        )
        return own_config(asked)[0].read_text().partition(' images')[0].rpartition('(')[2]

    assert (images(False, 'a'), images(True, 'b')) == ('5', '6')


def test_a_damaged_label_is_a_fault_with_its_line(tmp_path):
    dota(tmp_path)
    (tmp_path / 'labelTxt' / '3.txt').write_text('1 2 3 4 5 6 7 8\n')
    data = read(tmp_path)
    assert len(data.faults) == 1 and '3.txt, line 1' in data.faults[0]
    done = import_data(data, tmp_path / 'made', Options())
    assert done.bad == data.faults


def test_equal_images_in_two_splits_are_a_fault(tmp_path):
    for split in ('train', 'val'):
        class_folders(tmp_path / split)
    data = read(tmp_path)
    assert len(inspect(data).faults) == NUMBER
    with pytest.raises(ValueError, match='no image is left for training, for 6 faults: .*equals'):
        import_data(data, tmp_path / 'made', Options())
    assert not (tmp_path / 'made').exists()
    draw(tmp_path / 'train' / 'car' / '0.png', 200)
    done = import_data(read(tmp_path), tmp_path / 'made', Options())
    assert len(done.bad) == NUMBER - 1 and '2.png (train) equals' in done.bad[0]
    assert len(list((tmp_path / 'made' / 'val').rglob('*.png'))) == NUMBER
    assert [path.name for path in (tmp_path / 'made' / 'train').rglob('*.png')] == ['0.png']


def test_tiles_of_a_scene_stay_in_one_split_and_a_large_scene_is_cut_into_blocks(tmp_path):
    dota(tmp_path / 'many')
    done = import_data(read(tmp_path / 'many'), tmp_path / 'tiles', Options(tile=32, overlap=8))
    splits = {}
    for split in ('train', 'val'):
        for path in (tmp_path / 'tiles' / split / 'images').iterdir():
            splits.setdefault(path.stem.partition('__')[0], set()).add(split)
    assert len(splits) == NUMBER and all(len(each) == 1 for each in splits.values())
    assert done.left_out['parts of objects that a tile cuts'] > 0

    draw(tmp_path / 'one' / 'images' / 'scene.png')
    (tmp_path / 'one' / 'labelTxt').mkdir()
    (tmp_path / 'one' / 'labelTxt' / 'scene.txt').write_text('2 2 9 2 9 9 2 9 car 0\n')
    import_data(read(tmp_path / 'one'), tmp_path / 'blocks', Options(train=0.6, tile=16))
    right = [
        max(int(path.stem.split('__')[2]) + 16 for path in folder.iterdir())
        for folder in (tmp_path / 'blocks/train/images', tmp_path / 'blocks/val/images')
    ]
    assert right == [32, 64]


def test_classes_are_divided_in_equal_shares():
    counts = {f'{i}': Counter({('rare' if i < 5 else 'common'): 1 + i % 3}) for i in range(50)}
    parts = divide(counts, dict.fromkeys(counts, 1), 0.8, seed=0)
    for name in ('rare', 'common'):
        of_split = Counter()
        for scene, split in parts.items():
            of_split[split] += counts[scene][name]
        assert abs(of_split['val'] / sum(of_split.values()) - 0.2) < 0.12


@pytest.mark.parametrize(
    'encoder, weights, said',
    [
        ('vit_b_rsva', None, 'did you mean vit_b_rvsa'),
        ('internimage_t', None, '--weights none'),
        ('vit_b_rvsa', None, 'looked for it in checkpoints and .*--weights none'),
        ('vit_b_rvsa', 'imagenet', 'no released weights'),
        ('vit_b_rvsa', 'no/such.pth', 'no file such.pth'),
    ],
)
def test_missing_weights_are_told_before_data_are_read(
    encoder, weights, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        choose_weights(encoder, weights)


def test_horizontal_boxes_become_rotated_ones_on_request_alone(tmp_path):
    voc(tmp_path / 'mine')
    data = read(tmp_path / 'mine')
    import_data(data, tmp_path / 'made', Options(as_rotated=True))
    assert (
        f'{NUMBER} horizontal boxes are taken as rotated ones, along the axes' in data.tally.notes
    )
    again = read(tmp_path / 'made')
    assert again.rotated and again.tally.objects == NUMBER
    assert again.samples[0].objects[0].box.corners.tolist() == [list(c) for c in CORNERS]


@pytest.mark.parametrize('alone', [True, False])
def test_rotated_boxes_and_label_maps_pretrain(alone, tmp_path, monkeypatch):
    """A fifth of a map is ignored, which is neither a class nor background."""
    monkeypatch.chdir(tmp_path)
    dota(tmp_path / 'boxes')
    maps(tmp_path / 'maps')
    for path in (tmp_path / 'maps' / 'masks').glob('*.png'):
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        values[:13] = 255
        cv2.imwrite(str(path), values)
    data = [Path('maps')] if alone else [Path('maps'), Path('boxes')]
    path, _, _ = own_config(Request(data, 'vit_tiny_rvsa', 'none', 'pretraining'))
    cfg = Config.fromfile(path)
    check_config(cfg)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert model.datasets['maps'] == dict(num_classes=2, tasks=('semantic',), masks=True)
    assert list(model.tasks) == (['semantic'] if alone else ['semantic', 'rotated'])
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    shown = dataset.datasets[0][0]['data_samples'].gt_sem_seg.sem_seg
    assert shown.unique().tolist() == [1, 2, 255] and (shown[0, :13] == 255).all()
    training = DATASETS.build(cfg.train_dataloader.dataset)
    samples = [training[number] for number in range(len(training))]
    batch = model.data_preprocessor(pack_batch(samples), training=True)
    losses = model(**batch, mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert {name.rsplit('.', 1)[0] for name in losses} == {
        'maps.semantic',
        *([] if alone else ['boxes.rotated']),
    }
    if not alone:
        (box,) = dataset.datasets[1][0]['data_samples'].gt_rotated_instances.bboxes.tensor
        assert box[:2].tolist() == [24, 16] and sorted(box[2:4].tolist()) == [16, 32]


def test_a_pretraining_on_tiles_is_judged_on_scenes(tmp_path, monkeypatch):
    """A triangle that both tiles of a scene show counts once, with the boxes of its mask."""
    monkeypatch.chdir(tmp_path)
    triangle = [40, 10, 56, 10, 40, 42]
    images, annotations = [], []
    for number in range(3):
        path = tmp_path / 'data' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((64, 96, 3), number, np.uint8))
        images.append(dict(id=number, file_name=f'{number}.png', height=64, width=96))
        annotations.append(
            dict(id=number, image_id=number, category_id=0, segmentation=[triangle], iscrowd=0)
            | dict(bbox=[40, 10, 16, 32], area=256)
        )
    content = dict(images=images, annotations=annotations, categories=[dict(id=0, name='sail')])
    (tmp_path / 'data' / 'instances.json').write_text(json.dumps(content))
    options = Options(train=0.7, tile=64, overlap=32)
    request = Request([Path('data')], 'vit_tiny_rvsa', 'none', 'pretraining', options=options)
    path, _, _ = own_config(request)
    cfg = Config.fromfile(path)
    check_config(cfg)
    init_default_scope(cfg.default_scope)
    (truth,) = json.loads(Path(cfg.val_evaluator.scenes['data']).read_text())['scenes']
    (sail,) = truth['objects']
    assert sail['corners'] == [40, 10, 56, 10, 56, 41, 40, 41], 'of its pixels'
    assert sail['rotated'] != sail['corners'] and len(truth['tiles']) == 2
    metric, dataset = METRICS.build(cfg.val_evaluator), DATASETS.build(cfg.val_dataloader.dataset)
    metric.dataset_meta = dataset.metainfo
    for number in range(len(dataset)):
        sample = dataset[number]['data_samples']
        for key in ('instances', 'rotated_instances', 'sem_seg'):
            found = sample.get(f'gt_{key}').clone()
            if key != 'sem_seg':
                found.scores = torch.ones(len(found))
                found.bboxes = found.bboxes.tensor
            if key == 'instances':
                found.masks = found.masks.to_tensor(torch.bool, 'cpu')
            sample.set_field(found, f'pred_{key}', dtype=type(found))
        metric.process(None, [sample.to_dict()])
    figures = metric.evaluate(len(dataset))
    for name in ('semantic/mIoU', 'instance/bbox_mAP', 'rotated/mAP_75'):
        assert figures[f'data/{name}'] == figures[f'scene/data/{name}'] == 100


@pytest.mark.parametrize('alone', [True, False])
def test_boxes_pretrain_without_masks(alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coco(tmp_path / 'masks', masks=True)
    for split in ('train', 'val'):  # of the same names
        voc(tmp_path / 'boxes' / split)
    data = [Path('boxes')] if alone else [Path('masks'), Path('boxes')]
    path, _, lines = own_config(Request(data, 'vit_tiny_rvsa', 'none', 'pretraining'))
    cfg = Config.fromfile(path)
    check_config(cfg)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    expected = dict(num_classes=2, tasks=('instance',), masks=False)
    assert model.datasets['boxes'] == expected and 'task: pretraining' in lines
    assert list(model.tasks) == (['instance'] if alone else ['semantic', 'instance', 'rotated'])
    boxes = dataset.datasets[-1]
    assert len(boxes) == NUMBER == len(DATASETS.build(cfg.val_dataloader.dataset).datasets[-1])
    sample = boxes.get_data_info(0)['labels']
    assert sample.boxes.tolist() == [[8, 8, 40, 24]]
    assert dataset.metainfo['datasets']['boxes']['masks'] is False


def test_a_category_spelled_in_two_ways_is_one_class(tmp_path):
    coco(tmp_path)
    path = tmp_path / 'instances.json'
    content = json.loads(path.read_text())
    content['categories'][0]['name'] = 'small-car'
    content['categories'].append(dict(id=3, name='Small car'))
    content['annotations'][2]['category_id'] = 3
    path.write_text(json.dumps(content))
    data = read(tmp_path)
    assert data.faults == [] and data.classes == ('small-car', 'plane')
    assert [sample.objects[0].label for sample in data.samples] == [0, 1, 0, 1, 0, 1]


def test_an_index_of_another_spelling_is_the_same_class(tmp_path):
    yolo(tmp_path)
    (tmp_path / 'classes.txt').write_text('car\nCAR\n')
    data = read(tmp_path)
    assert data.faults == [] and data.classes == ('car',)
    assert {each.label for sample in data.samples for each in sample.objects} == {0}
    paths = dict(ann_file='labels', data_prefix=dict(img_path='images'))
    reader = BoxFilesDetection('yolo', data_root=str(tmp_path), **paths)
    assert reader.metainfo['classes'] == ('car',) and reader.tally.of_class == {'car': NUMBER}
    for notes in (data.tally.notes, reader.tally.notes):
        assert "'CAR' is read as the class 'car'" in notes


def test_a_split_may_lack_classes_and_classes_are_spelled_in_two_ways(tmp_path):
    for number, name in enumerate(('train/Car', 'train/plane', 'val/car')):
        draw(tmp_path / name / f'{number}.png', number)
    data = read(tmp_path)
    assert data.classes == ('Car', 'plane')
    assert [(sample.split, sample.label) for sample in data.samples] == [
        ('train', 0),
        ('train', 1),
        ('val', 0),
    ]
    assert data.tally.notes == ["'car' is read as the class 'Car'"]


def test_values_of_label_maps_without_a_meaning_are_a_fault(tmp_path):
    maps(tmp_path)
    for path in (tmp_path / 'masks').iterdir():
        cv2.imwrite(str(path), np.eye(SIDE, dtype=np.uint8) + 1)
    found = inspect(read(tmp_path))
    assert found.values == '1 in 6 files (24,192 pixels), 2 in 6 files (384 pixels)'
    assert len(found.faults) == 1 and "label_values={1: 'ground', 2: 'road'}" in found.faults[0]


def damage(root, change):
    path = root / 'instances.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    'mask',
    [
        [8, 8, 40, 8, 40, 24, 8, 24],
        [[8, 8, 40, 8, 40, 24, 8]],
        [[8, 8, 40, 8]],
        [[[8, 8], [40, 8], [40, 24]]],
        dict(size=[SIDE // 2, SIDE], counts=[0, SIDE * SIDE // 2]),
        dict(size=[str(SIDE)] * 2, counts=[0, SIDE * SIDE]),
        dict(size=[SIDE, SIDE], counts=[]),
    ],
)
def test_a_bad_mask_is_named_and_its_image_left_out(mask, tmp_path):
    coco(tmp_path / 'own', masks=True)
    damage(tmp_path / 'own', lambda content: content['annotations'][2].update(segmentation=mask))
    data = read(tmp_path / 'own')
    found = inspect(data)
    assert len(found.faults) == 1 and 'annotation 3: the mask cannot be read' in found.faults[0]
    draw_page(data)
    import_data(data, tmp_path / 'made', Options())
    names = {path.stem for path in (tmp_path / 'made').rglob('*.png')}
    assert names == {str(number) for number in range(NUMBER) if number != 2}


def test_masks_without_any_corner_are_none(tmp_path):
    coco(tmp_path, masks=True)
    damage(tmp_path, lambda content: [a.update(segmentation=[[]]) for a in content['annotations']])
    data = read(tmp_path)
    assert data.faults == [] and inspect(data).task == 'horizontal_detection'


def test_label_maps_of_one_bit_are_drawn(tmp_path):
    maps(tmp_path)
    for path in (tmp_path / 'masks').iterdir():
        Image.fromarray(np.eye(SIDE) > 0).save(path)
    assert draw_page(read(tmp_path)).any()


def test_without_a_class_the_first_faults_are_named(tmp_path):
    text_of(tmp_path / 'dota', 'labelTxt', lambda name: f'8 8 40 8 40 24 8 24 {name} 0.9\n')
    with pytest.raises(
        UnusableFileError, match=r'6 cannot be read, .*0\.txt, line 1: .*1\.txt, line 1'
    ):
        read(tmp_path / 'dota')
    voc(tmp_path / 'voc')
    for path in (tmp_path / 'voc' / 'Annotations').iterdir():
        path.write_text(path.read_text().replace('<xmin>8', '<xmin>x'))
    with pytest.raises(UnusableFileError, match=r"0\.xml, line 1: 'x 8 40 24' are not all num"):
        read(tmp_path / 'voc')
    coco(tmp_path / 'coco')
    damage(tmp_path / 'coco', lambda content: content['categories'][0].update(name=''))
    with pytest.raises(UnusableFileError, match='category 1: its name is empty'):
        read(tmp_path / 'coco')


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif'])
def test_an_image_that_is_cut_short_is_named(suffix, tmp_path):
    dota(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    for path in sorted((tmp_path / 'images').iterdir()):
        path.unlink()
        Image.fromarray(noise).save(path.with_suffix(suffix))
    cut, longer = (tmp_path / 'images' / f'{number}{suffix}' for number in (2, 3))
    cut.write_bytes(cut.read_bytes()[:-600])
    longer.write_bytes(longer.read_bytes() + b'more')
    data = read(tmp_path)
    assert len(data.faults) == 1 and data.faults[0].startswith(str(cut))
    assert len(data.samples) == NUMBER - 1


def test_two_images_of_one_stem_are_named(tmp_path):
    dota(tmp_path / 'own')
    draw(tmp_path / 'own' / 'images' / '2.tif')
    data = read(tmp_path / 'own')
    said = '2.tif: 2.png has the same name, by which labels go: rename or remove one of the two'
    assert len(data.faults) == 1 and data.faults[0].endswith(said)
    assert data.tally.left_out == {}
    with pytest.raises(ValueError, match=f'nothing can be used: .*{said}'):
        import_data(data, tmp_path / 'made', Options())


def test_suffixes_in_capitals_and_accents_of_two_signs(tmp_path):
    yolo(tmp_path / 'yolo')
    labels = tmp_path / 'yolo' / 'labels'
    (labels / '1.txt').rename(labels / '1.TXT')
    (labels / '2.txt').rename(labels / 'u\u0308.txt')
    images = tmp_path / 'yolo' / 'images'
    (images / '2.png').rename(images / '\u00fc.png')
    data = read(tmp_path / 'yolo')
    assert data.faults == [] and data.tally.notes == [] and data.tally.left_out == {}
    assert [len(sample.objects) for sample in data.samples] == [1] * NUMBER
    reader = BoxFilesDetection(
        'yolo', data_root=f'{tmp_path}/yolo', ann_file='labels', data_prefix=dict(img_path='images')
    )
    assert reader.tally.of_class == {'car': 3, 'plane': 3}
    dota(tmp_path / 'dota')
    for number, name in ((0, 'caf\u00e9'), (2, 'cafe\u0301'), (4, 'caf\u00e9')):
        path = tmp_path / 'dota' / 'labelTxt' / f'{number}.txt'
        path.write_text(path.read_text().replace('car', name))
    assert len(read(tmp_path / 'dota').classes) == 2
    (labels / '1.txt').write_text('')
    (fault,) = read(tmp_path / 'yolo').faults
    assert '1.txt: 1.TXT has the same name: remove one' in fault


def test_names_in_a_json_may_have_accents_of_two_signs(tmp_path):
    coco(tmp_path)
    (tmp_path / 'images' / '0.png').rename(tmp_path / 'images' / 'u\u0308.png')
    damage(tmp_path, lambda content: content['images'][0].update(file_name='\u00fc.png'))
    data = read(tmp_path)
    assert data.faults == [] and len(data.samples) == NUMBER


def test_images_of_one_name_are_all_imported_with_their_own_labels(tmp_path):
    images, annotations = [], []
    for number, place in enumerate(('x/rgb/1', 'y/rgb/1', 'z/rgb/1', 'z/rgb/A', 'y/rgb/a')):
        draw(tmp_path / 'mine' / f'{place}.png', 10 * number)
        images.append(dict(id=number, file_name=f'{place}.png', height=SIDE, width=SIDE))
        box = dict(bbox=[number, 8, 32, 16], area=512, iscrowd=0)
        annotations.append(dict(id=number, image_id=number, category_id=1) | box)
    categories = [dict(id=1, name='car')]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / 'mine' / 'instances.json').write_text(json.dumps(content))
    import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options(train=0.5))
    again = read(tmp_path / 'made')
    assert again.faults == [] and len({each.image.stem.lower() for each in again.samples}) == 5
    for sample in again.samples:
        value = cv2.imread(str(sample.image))[0, 0, 0]
        assert sample.objects[0].box.corners[0, 0] == value / 10
    splits = {
        frozenset(s.image.stem.lower()[-1] for s in again.samples if s.split == split)
        for split in ('train', 'val')
    }
    assert splits == {frozenset('1'), frozenset('a')}, 'one name is one scene, renamed or not'


def test_images_of_one_name_in_folders_of_one_class_are_all_imported(tmp_path):
    for number, name in enumerate(('forest', 'Forest', 'Forest/north', 'beach')):
        for image in range(2):
            draw(tmp_path / 'mine' / name / f'{image}.png', 10 * number + image)
    done = import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options(train=0.5))
    files = list((tmp_path / 'made').rglob('*.png'))
    assert len({path.read_bytes() for path in files}) == 8 and not done.bad
    assert Counter(path.parent.name for path in files) == dict(Forest=6, beach=2)


def interrupted(root, **changes):
    """Import six images, and end as a process does that is killed before the last file."""
    dota(root / 'mine')
    import_data(read(root / 'mine'), root / 'made', Options(train=0.5, **changes))
    (root / 'made' / 'data.yaml').unlink()


def test_an_unfinished_import_goes_on(tmp_path):
    interrupted(tmp_path)
    (tmp_path / 'mine' / 'labelTxt' / '1.txt').write_text('8 8 40 8 40 32 8 32 plane 0\n')
    removed = next((tmp_path / 'made').glob('*/images/1.png'))
    removed.unlink()
    import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options(train=0.5))
    (changed,) = (s for s in read(tmp_path / 'made').samples if s.image == removed)
    assert changed.objects[0].box.corners[2].tolist() == [40, 32], 'labels are written anew'


@pytest.mark.parametrize('change', ['seed', 'tile', 'image'])
def test_an_unfinished_import_does_not_go_into_another(change, tmp_path):
    interrupted(tmp_path)
    if change == 'image':
        (tmp_path / 'mine' / 'images' / '1.png').unlink()
        draw(tmp_path / 'mine' / 'images' / '1.png', 200)
    options = Options(train=0.5, **({} if change == 'image' else {change: 32}))
    with pytest.raises(FileExistsError, match='made holds an unfinished import .*: remove it'):
        import_data(read(tmp_path / 'mine'), tmp_path / 'made', options)
    assert len(list((tmp_path / 'made').rglob('*.png'))) == NUMBER


def test_an_unfinished_import_of_masks_is_begun_anew_if_an_image_changes(tmp_path):
    coco(tmp_path / 'mine', masks=True)
    draw(tmp_path / '.made.pieces' / '1.png', 1)
    import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options(train=0.5))
    assert cv2.imread(str(tmp_path / 'made/trainval/images/1.png'))[0, 0, 0] == 21


def test_files_of_others_are_not_taken_for_an_import(tmp_path):
    dota(tmp_path / 'mine')
    draw(tmp_path / 'made' / 'train' / 'images' / '1.png')
    with pytest.raises(FileExistsError, match='made holds files'):
        import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options())


@pytest.mark.parametrize(
    'folders, said',
    [
        ('port/a port/b beach/a', None),
        ('port beach/north beach', None),
        ('train/port/a train/port train/beach/a val/port val/beach', None),
        ('all/port all/beach', None),
        ('train/images/port/a train/images/beach val/images/port', None),
        ('port/train port/val beach/train', 'hold the splits train, val: make it a folder for'),
        ('train/port train/beach val/port extra/port', 'extra lies beside .*train, which is named'),
        ('rgb/port rgb/beach rgb/sea ms/port ms/beach ms/sea', 'may be ms, rgb, or beach, port'),
    ],
)
def test_the_outermost_folders_are_the_classes(folders, said, tmp_path):
    for number, folder in enumerate(folders.split()):
        draw(tmp_path / folder / f'{number}.png', number)
    if said is not None:
        with pytest.raises(UnusableFileError, match=said):
            recognise(tmp_path)
        return
    data = read(tmp_path)
    assert data.classes == ('beach', 'port') and data.faults == []
    assert [data.classes[each.label] in str(each.image) for each in data.samples] == [True] * (
        number + 1
    )


def test_two_jsons_over_the_same_images_are_refused(tmp_path):
    coco(tmp_path)
    content = json.loads((tmp_path / 'instances.json').read_text())
    (tmp_path / 'instances_old.json').write_text(json.dumps(content))
    with pytest.raises(UnusableFileError, match='instances.json and .*instances_old.json both'):
        read(tmp_path)
    (tmp_path / 'instances_old.json').rename(tmp_path / 'train.json')
    with pytest.raises(UnusableFileError, match='both have labels of .*0.png'):
        read(tmp_path)
    (tmp_path / 'train.json').rename(tmp_path / 'more.json')
    for number, name in enumerate(('instances', 'more')):  # halves
        chosen = [each for each in content['images'] if each['id'] % 2 == number]
        half = [each for each in content['annotations'] if each['image_id'] % 2 == number]
        (tmp_path / f'{name}.json').write_text(
            json.dumps(content | dict(images=chosen, annotations=half))
        )
    assert read(tmp_path).tally.objects == NUMBER


@pytest.mark.parametrize('lists', ['trainval', 'trainval test', 'trainval train val'])
def test_lists_of_voc_divide_and_images_in_none_are_counted(lists, tmp_path):
    voc(tmp_path)
    names = dict(trainval='0 1 2 3', train='0 1 2', val='3', test='4')
    for name in lists.split():
        path = tmp_path / 'ImageSets' / 'Main' / f'{name}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(names[name].split()))
    data = read(tmp_path)
    of_split = {
        split: {s.image.stem for s in data.samples if s.split == split}
        for split in {s.split for s in data.samples}
    }
    used = dict(train=names['train' if 'val' in lists.split() else 'trainval'])
    used |= {name: names[name] for name in lists.split() if name in ('val', 'test')}
    assert of_split == {split: set(each.split()) for split, each in used.items()}
    left = {str(tmp_path / 'images' / f'{n}.png') for n in range(NUMBER)} - {
        str(sample.image) for sample in data.samples
    }
    assert set(data.tally.left_out['images in no list of a split']) == left and data.faults == []


@pytest.mark.parametrize('fault', ['mask', 'classes'])
def test_masks_that_cannot_be_imported_are_named_by_their_source_and_nothing_is_left(
    fault, tmp_path
):
    coco(tmp_path / 'mine', masks=True)
    path = tmp_path / 'mine' / 'instances.json'
    content = json.loads(path.read_text())
    if fault == 'mask':
        for each in content['annotations']:
            each['segmentation'] = each['segmentation'][0]
    else:
        content['categories'] = [dict(id=i, name=f'c{i}') for i in range(1, 258)]
        first = content['annotations'][0]
        content['annotations'] = [first | dict(id=i, category_id=i) for i in range(1, 258)]
    path.write_text(json.dumps(content))
    said = dict(mask='nothing can be used: .*json, annotation 1: the mask', classes='257 classes')
    with pytest.raises(ValueError, match=said[fault]):
        import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options(train=0.5))
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_equal_images_are_divided_into_one_split(tmp_path):
    dota(tmp_path / 'mine')
    for number in (0, 2, 4):  # three scenes of two images each
        path = tmp_path / 'mine' / 'images' / f'{number}.png'
        path.write_bytes(path.with_name(f'{number + 1}.png').read_bytes())
    done = import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options(train=0.5))
    assert done.made['scenes'] == 3 and inspect(read(tmp_path / 'made')).faults == []


def test_data_with_faults_are_refused_at_each_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dota(tmp_path / 'mine')
    label = tmp_path / 'mine' / 'labelTxt' / '2.txt'
    good = label.read_text()
    label.write_text('8 8 40 x 40 24 8 24 car 0\n')
    request = Request([Path('mine')], 'vit_tiny_rvsa', 'none')
    for _ in range(2):  # the second finds nothing of the first
        with pytest.raises(UnusableFileError, match=r'1 could not be used, the first: .*2\.txt'):
            own_config(request)
    label.write_text(good)
    own_config(request)
    # a folder in the layout of an import is read as it is
    import_data(read(tmp_path / 'mine'), tmp_path / 'made', Options())
    label = next((tmp_path / 'made' / 'train').rglob('*.txt'))
    label.write_text('8 8 40 x 40 24 8 24 car 0\n')
    with pytest.raises(UnusableFileError, match='1 could not be used'):
        own_config(Request([Path('made')], 'vit_tiny_rvsa', 'none'))
