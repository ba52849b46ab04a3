"""Recipes of the five tasks, as the documentation writes them, on other than 8-bit RGB."""

import copy
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mtp.cli.finetuning import SIDES
from mtp.data.band_transforms import MOVING, BandErasing, BandRandAugment
from mtp.recipes import multispectral
from mtp.recipes.shrink import shrink
from mtp.recipes.table import nodes
from mtp.visualization.browse import browse
from tests.conftest import REPO
from tests.test_finetuning_docs import SNIPPETS, TASKS, make

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
DOCUMENTED = re.search(
    r'```python\n(from mtp.data import LoadBands\n.+?)```',
    (REPO / 'docs' / 'bands.md').read_text(),
    re.DOTALL,
)[1]
LEFT_OUT = {
    'classification': 'operations of RandAugment',
    'segmentation': 'PhotoMetricDistortion',
    'change_detection': 'DistortPair',
}


def config(task: str, root: Path, more: str = '') -> Config:
    shutil.copytree(REPO / 'configs' / '_base_', root / 'configs' / '_base_', dirs_exist_ok=True)
    path = root / 'configs' / 'finetune' / task / 'mine' / 'vit_b_rvsa.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SNIPPETS[task] + more)
    cfg = Config.fromfile(path)
    shrink(cfg, SIDES[cfg.default_scope])
    return cfg


def data(task: str, root: Path, bands: int, dtype: str = 'uint8', kind: str = 'tif') -> None:
    """Noise in place of the images of the documentation's data; decoders go by the content."""
    make(root / 'data' / 'mine', task)
    rng = np.random.default_rng(0)
    for folder in TASKS[task][1]:
        for path in sorted((root / 'data' / 'mine' / folder).glob('*.png')):
            high = 256 if dtype == 'uint8' else 3000
            pixels = rng.integers(1, high, (300, 300, bands)).astype(dtype)
            if kind == 'png':
                cv2.imwrite(str(path), pixels[..., ::-1])
                continue
            path.unlink()
            with rasterio.open(path, 'w', 'GTiff', 300, 300, bands, dtype=dtype) as file:
                file.write(np.moveaxis(pixels, 2, 0))


def use_bands(cfg: Config, bands: list[int], **options) -> None:
    load = dict(type='mtp.LoadBands', bands=bands, **options)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for node in nodes(loader):
            name = getattr(node.get('type'), '__name__', '')
            if name == 'LoadImage':
                node.update(load)
            elif name == 'LoadPair':
                node['image'] = load


def step(cfg: Config) -> dict[str, float]:
    """Train a step on the first two images; return its losses."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    np.random.seed(0)
    model = MODELS.build(cfg.model).train()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    batch = pseudo_collate([dataset[0], dataset[len(dataset) - 1]])
    losses = model.train_step(batch, build_optim_wrapper(model, cfg.optim_wrapper))
    return {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.parametrize('task', TASKS)
def test_five_bands_of_16_bits_train(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data(task, tmp_path, 13, 'uint16')
    documented = DOCUMENTED
    if task == 'change_detection':
        documented = DOCUMENTED.replace('import ', 'import LoadPair, ').replace(
            '= _load\n', '= dict(type=LoadPair, image=_load)\n'
        )
    original = config(task, tmp_path)
    cfg = config(task, tmp_path, documented)
    notes = multispectral.adapt(cfg)
    assert cfg.default_hooks.visualization.bands == [4, 3, 2]
    assert LEFT_OUT.get(task, '') in ''.join(notes) and bool(notes) == (task in LEFT_OUT)
    if task == 'classification':  # the same again, as resumed
        cfg.dump(tmp_path / 'dumped.py')
        cfg = Config.fromfile(tmp_path / 'dumped.py')
        assert not multispectral.adapt(cfg)
    if task in ('segmentation', 'change_detection'):  # one and two dates of 16 bits
        assert browse(cfg, num=1).std() > 10
    losses = step(cfg)
    assert losses and all(np.isfinite(value) for value in losses.values())
    for bands, loader in ((1, 'train'), (4, 'train'), (13, 'train'), (13, 'test')):
        cfg = copy.deepcopy(original)
        use_bands(cfg, list(range(1, bands + 1)), dtype='uint16')
        cfg.model.backbone.in_chans = bands
        cfg.model.data_preprocessor.update(mean=[1500.0] * bands, std=[866.0] * bands)
        multispectral.adapt(cfg)
        image = DATASETS.build(cfg[f'{loader}_dataloader'].dataset)[0]['inputs']
        assert image.shape[0] == bands * (2 if task == 'change_detection' else 1)
        assert image.dtype == torch.float32 and image.max() > 2000


@pytest.mark.parametrize('task', TASKS)
def test_png_and_geotiff_give_equal_losses(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for kind in ('png', 'tif'):
        data(task, tmp_path, 3, kind=kind)
        cfg = config(task, tmp_path)
        if kind == 'tif':
            use_bands(cfg, [1, 2, 3])
        assert not multispectral.adapt(cfg)
        found.append(step(cfg))
        shutil.rmtree(tmp_path / 'data')
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ('in_chans', 'bands', 'message'),
    [
        (4, None, r'in_chans is 4, but train_dataloader loads 8-bit RGB by LoadImage.*LoadBands'),
        (4, [1, 2, 3, 4], r'data_preprocessor has 3 values of mean'),
        (4, [1, 2, 3], r'in_chans is 4, but train_dataloader loads 3 bands'),
        (3, [1, 2, 3, 4], r'in_chans is 3, but train_dataloader loads 4 bands'),
    ],
)
def test_numbers_of_bands_that_differ(in_chans, bands, message, tmp_path):
    cfg = config('segmentation', tmp_path)
    cfg.model.backbone.in_chans = in_chans
    if bands:
        use_bands(cfg, bands)
    with pytest.raises(ValueError, match=message):
        multispectral.adapt(cfg)


def test_pretraining_takes_8_bit_rgb_only():
    cfg = Config.fromfile(REPO / 'configs' / 'pretrain' / 'vit_tiny_rvsa_demo.py')
    assert not multispectral.adapt(cfg)
    cfg.model.backbone.in_chans = 4
    with pytest.raises(ValueError, match='three bands of 8 bits.*stretch'):
        multispectral.adapt(cfg)


@pytest.mark.parametrize('bands', [1, 4, 5, 13])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_augmentations_take_any_bands(bands, dtype):
    init_default_scope('mmpretrain')
    image = np.random.default_rng(0).integers(50, 200, (40, 40, bands)).astype(dtype)
    fill = [float(band + 100) for band in range(bands)]
    augment = BandRandAugment(
        fill,
        policies='timm_increasing',
        num_policies=2,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(interpolation='bicubic'),
    )
    kept = [isinstance(transform, MOVING) for transform in augment.transforms]
    assert len(kept) == 15 and sum(kept) == 5
    for number, moves in enumerate(kept):
        augment.random_policy_indices = lambda number=number: [number]
        augment.transforms[number].prob = 1.0
        np.random.seed(0)
        moved = augment.transform(dict(img=image.copy()))['img']
        assert moved.shape == image.shape and moved.dtype == image.dtype
        changed = (moved != image).any(axis=(0, 1))
        assert changed.all() if moves else not changed.any()
    outside = augment.transform(dict(img=image * 0 + np.array(fill, dtype)))['img']
    assert abs(outside - np.array(fill)).max() < 1e-3
    erased = BandErasing(fill, [1.0] * bands, erase_prob=1.0).transform(dict(img=image.copy()))
    patch = (erased['img'] != image).all(2)
    assert patch.any() and abs(erased['img'][patch] - np.array(fill)).max() < 6
