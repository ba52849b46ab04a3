"""Real images with one truth in several forms: samples and the losses of a step are equal."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mtp import resources
from mtp.cli.finetuning import SIDES
from mtp.data import BoxFilesDetection, COCODetection, LoadBands, SegmentationDataset
from mtp.data.multitask_dataset import seeded
from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.recognition import recognise
from mtp.recipes.shrink import shrink
from tests.label_forms import Objects, write

pytestmark = pytest.mark.usefixtures('few_objects')

SIDE, IMAGES = 512, 2  # side of the images in pixels, and their number
GRID = 8  # corners are on multiples of 1 / GRID pixel: shares of 512 pixels are exact


def _upright(corners: np.ndarray) -> np.ndarray:
    (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def cut(data, root: Path, clip: bool) -> dict[str, Objects]:
    """Write windows of real images; return their objects, on the grid."""
    (root / 'images').mkdir(parents=True)
    truth: dict[str, Objects] = {}
    for sample in data.samples:
        if min(sample.size) < SIDE or not sample.objects or len(truth) == IMAGES:
            continue
        first = sample.objects[0].box.corners.min(0)
        x, y = np.minimum(first, np.array(sample.size[::-1]) - SIDE).clip(0).astype(int)
        objects = []
        for each in sample.objects:
            corners = np.round((each.box.corners - (x, y)) * GRID) / GRID
            corners = corners.clip(0, SIDE) if clip else corners
            if corners.min() >= 0 and corners.max() <= SIDE and np.ptp(corners, 0).min() > 4:
                objects.append((data.classes[each.label], _upright(corners) if clip else corners))
        if objects:
            truth[sample.image.stem] = objects
            with Image.open(sample.image) as image:
                window = image.convert('RGB').crop((x, y, x + SIDE, y + SIDE))
            window.save(root / 'images' / f'{sample.image.stem}.png')
    assert len(truth) == IMAGES
    return truth


UPRIGHT = ('coco', 'voc', 'yolo')
ROTATED = ('dota', 'yolo_obb', 'fair1m', 'dior_r')


def recipe(name: str) -> Config:
    cfg = Config.fromfile(resources.configs() / 'finetune' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    shrink(cfg, SIDES[cfg.default_scope])
    return cfg


def samples_of(dataset) -> list[dict]:
    found = []
    for index in range(len(dataset)):
        with seeded(index):
            found.append(dataset[index])
    return found


def losses_of(cfg: Config, samples: list[dict]) -> dict[str, torch.Tensor]:
    """Return the losses of a step of the recipe's small model."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    batch = model.data_preprocessor(pseudo_collate(samples), training=True)
    losses = model(**batch, mode='loss')
    return {
        name: torch.stack([*value]) if isinstance(value, list) else value
        for name, value in losses.items()
    }


def assert_equal(cfg: Config, forms: dict[str, list[dict]], fields: tuple[str, ...]) -> None:
    """Assert that samples and losses of all forms are those of the first."""
    (first, expected), *others = forms.items()
    losses = losses_of(cfg, expected)
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    for form, samples in others:
        for mine, other in zip(samples, expected, strict=True):
            assert torch.equal(mine['inputs'], other['inputs']), (form, first)
            for field in fields:
                assert torch.equal(_get(mine, field), _get(other, field)), (form, first, field)
        for name, loss in losses_of(cfg, samples).items():
            assert torch.equal(loss, losses[name]), (form, first, name)


def _get(sample: dict, field: str) -> torch.Tensor:
    value = sample['data_samples']
    for part in field.split('.'):
        value = getattr(value, part)
    return getattr(value, 'tensor', value)


def read_boxes(root: Path, form: str, classes, pipeline):
    common = dict(data_root=str(root), classes=classes, pipeline=pipeline)
    if form == 'coco':
        return COCODetection(ann_file='labels/all.json', data_prefix=dict(img='images'), **common)
    return BoxFilesDetection(form, ann_file='labels', data_prefix=dict(img_path='images'), **common)


def read_geojson(root: Path, images: Path, truth: dict[str, Objects], classes, pipeline):
    """Return the samples of GeoTIFF and polygons on a map, as they are imported."""
    rasterio = pytest.importorskip('rasterio')
    crs = 'urn:ogc:def:crs:EPSG::32633'
    for number, (stem, objects) in enumerate(truth.items()):
        x, y = 500_000 + SIDE * number, 5_000_000
        with Image.open(images / f'{stem}.png') as image:
            pixels = np.array(image)
        profile = dict(
            driver='GTiff', width=SIDE, height=SIDE, count=3, dtype='uint8', photometric='RGB'
        )
        place = rasterio.Affine(1, 0, x, 0, -1, y)
        (root / 'scenes').mkdir(parents=True, exist_ok=True)
        path = root / 'scenes' / f'{stem}.tif'
        with rasterio.open(path, 'w', crs='EPSG:32633', transform=place, **profile) as file:
            file.write(pixels.transpose(2, 0, 1))
        features = []
        for name, corners in objects:
            ring = [[x + u, y - v] for u, v in [*corners.tolist(), corners[0].tolist()]]
            polygon = dict(type='Polygon', coordinates=[ring])
            features.append(dict(type='Feature', properties=dict(kind=name), geometry=polygon))
        content = dict(
            type='FeatureCollection', features=features,
            crs=dict(type='name', properties=dict(name=crs)),
        )  # fmt: skip
        path.with_suffix('.geojson').write_text(json.dumps(content))
    data = read_data(recognise(root / 'scenes'))
    assert import_data(data, root / 'made', Options(kind='rotated')).bad == []
    parts = {}
    for split in ('train', 'val'):
        dataset = BoxFilesDetection(
            'dota',
            ann_file='labels',
            data_prefix=dict(img_path='images'),
            data_root=str(root / 'made' / split),
            classes=classes,
            pipeline=pipeline,
        )
        for index in range(len(dataset)):
            parts[dataset.get_data_info(index)['img_id']] = dataset, index
    samples = []
    for seed, (_, (dataset, index)) in enumerate(sorted(parts.items())):
        with seeded(seed):
            samples.append(dataset[index])
    return samples


def compare_boxes(data, root: Path, name: str, names: tuple[str, ...]) -> None:
    cfg = recipe(name)
    truth = cut(data, root / 'cut', clip=not data.rotated)
    classes = tuple(sorted({name for objects in truth.values() for name, _ in objects}))
    cfg.model.roi_head.bbox_head.num_classes = len(classes)
    read = cfg.train_dataloader.dataset
    pipeline = read.get('datasets', [read])[0].pipeline
    forms = {}
    for form in names:
        folder = root / form
        folder.mkdir()
        (folder / 'images').symlink_to(root / 'cut' / 'images')
        write(form, folder / 'labels', truth, classes, (SIDE, SIDE))
        dataset = read_boxes(folder, form, classes, pipeline)
        assert dataset.tally.objects == sum(map(len, truth.values()))
        forms[form] = samples_of(dataset)
    if data.rotated:
        forms['geojson'] = read_geojson(
            root / 'geojson', root / 'cut' / 'images', truth, classes, pipeline
        )
    assert_equal(cfg, forms, ('gt_instances.bboxes', 'gt_instances.labels'))


def test_coco_voc_and_yolo(shared, tmp_path):
    data = read_data(recognise(shared / 'data' / 'nwpu_vhr10'))
    compare_boxes(data, tmp_path, 'horizontal_detection/dior/vit_b_rvsa', UPRIGHT)


def test_dota_yolo_obb_fair1m_dior_r_and_geojson(shared, tmp_path):
    (tmp_path / 'ucas').mkdir()
    (tmp_path / 'ucas' / 'classes.txt').write_text('plane\ncar\n')
    for folder in ('images', 'labels'):
        (tmp_path / 'ucas' / folder).symlink_to(shared / 'data' / 'ucas_aod' / folder)
    data = read_data(recognise(tmp_path / 'ucas', 'yolo_obb'))
    compare_boxes(data, tmp_path, 'rotated_detection/dior_r/vit_b_rvsa', ROTATED)


CLASSES = ('surface', 'building', 'low', 'tree', 'car', 'clutter')


def save_palette(values: np.ndarray, path: Path) -> None:
    image = Image.fromarray(values)
    image.putpalette([level for colour in range(6) for level in (colour, 255 - colour, 9)])
    image.save(path)


MAPS = {
    'grey': lambda values, path: Image.fromarray(values).save(path),
    'palette': save_palette,
    '16 bits': lambda values, path: Image.fromarray(values.astype(np.uint16)).save(path),
}


@pytest.fixture
def areas(shared, tmp_path):
    """Image and values of the crop of Vaihingen, and a function that reads them from a folder."""
    root = shared / 'data' / 'mmseg_fixtures' / 'pseudo_vaihingen_dataset'
    (image,) = (root / 'img_dir').iterdir()
    cfg = recipe('segmentation/spacenet_v1/vit_b_rvsa')
    cfg.model.decode_head.merge(dict(num_classes=len(CLASSES), out_channels=len(CLASSES)))

    def read(name, suffix, load, values, save):
        folder = tmp_path / name / 'train'
        for below in ('images', 'labels'):
            (folder / below).mkdir(parents=True)
        with Image.open(image) as pixels:
            pixels.save(folder / 'images' / f'a{suffix}')
        save(values, folder / 'labels' / 'a.png')
        pipeline = [dict(step) for step in cfg.train_dataloader.dataset.pipeline]
        pipeline = [
            step | dict(num_classes=len(CLASSES)) if 'num_classes' in step else step
            for step in pipeline
        ]
        pipeline[0] = load or pipeline[0]
        dataset = SegmentationDataset(str(tmp_path / name), 'train', CLASSES, pipeline=pipeline)
        return samples_of(dataset) * 2  # batch norm needs more than one

    with Image.open(root / 'ann_dir' / image.name) as label:
        values = np.array(label)
    return cfg, values, read


def test_grey_palette_and_16_bit_maps(areas):
    cfg, values, read = areas
    forms = {name: read(name, '.png', None, values, save) for name, save in MAPS.items()}
    assert forms['grey'][0]['data_samples'].gt_sem_seg.data.unique().numel() > 1
    assert_equal(cfg, forms, ('gt_sem_seg.data',))


def test_png_and_8_bit_geotiff(areas):
    pytest.importorskip('rasterio')
    cfg, values, read = areas
    bands = dict(type=LoadBands, bands=[1, 2, 3])
    read = partial(read, values=values, save=MAPS['grey'])
    forms = {'png': read('png', '.png', None), 'tif': read('tif', '.tif', bands)}
    assert_equal(cfg, forms, ('gt_sem_seg.data',))


# folder -> form, images, objects, faults
AS_THEY_COME = {
    'nwpu_vhr10': ('coco', 520, 2989, 0),
    'dota_samples/format_fixtures': ('dota', 2, 1, 0),
    'dior_r': ('dior_r', 1, 1, 0),
    'levir_cd_samples': ('pairs', 11, None, 1),  # an image has no change map
    'egy_bcd_samples': ('pairs', 9, None, 0),
    'mmseg_fixtures': ('maps', 5, None, 0),
    'aid_150px': ('classes', 1800, None, 0),
}


@pytest.mark.parametrize('name', AS_THEY_COME)
def test_data_as_they_come(name, shared):
    data = read_data(recognise(shared / 'data' / name))
    found = data.found.form, data.tally.images, data.tally.objects, len(data.faults)
    assert found == AS_THEY_COME[name]
