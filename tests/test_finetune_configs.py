"""Every finetuning config against the paper's recipe; a tiny one of each data set learns a step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mtp.cli.config_check import check_config
from mtp.data.datasets import DATASETS
from mtp.models import build_backbone, list_backbones
from mtp.recipes.shrink import shrink
from mtp.registry import MODELS

ROOT = Path(__file__).parents[1] / 'configs' / 'finetune'
TASKS = ('classification', 'segmentation', 'change_detection')
CONFIGS = sorted(path for task in TASKS for path in (ROOT / task).glob('*/*.py'))

# data set -> classes, image side, images a step, epochs or thousands of iterations, those of them
# that warm up, key in golden/keys/finetune_heads.json
RECIPES = {
    'eurosat': (10, 224, 64, 100, 5, 'cls/eurosat'),
    'resisc45': (45, 224, 64, 200, 5, None),
    'spacenet_v1': (2, 384, 8, 80, 1.5, 'seg/spacenetv1'),
    'loveda': (7, 512, 8, 80, 1.5, None),
    'oscd': (2, 224, 32, 100, 5, None),
    'whu': (2, 256, 32, 200, 5, 'change/whu'),
    'levir': (2, 256, 32, 150, 5, 'change/levir'),
    'svcd': (2, 256, 32, 200, 5, None),
    'clcd': (2, 256, 32, 150, 5, None),
    'egy_bcd': (2, 256, 32, 150, 5, None),
    'gvlm': (2, 256, 32, 150, 5, None),
}
PUBLISHED = [path for path in CONFIGS if path.parent.name in RECIPES]
# backbone -> size in the golden keys, layers, drop path, lr, layer decay
BACKBONES = {
    'vit_b_rvsa': ('b', 12, 0.3, 6e-5, 0.9),
    'vit_l_rvsa': ('l', 24, 0.3, 6e-5, 0.9),
    'vit_l': (None, 24, 0.3, 6e-5, 0.9),
    'internimage_xl': ('xl', 39, 0.2, 2e-5, 0.94),
}


@pytest.mark.parametrize('name', list_backbones())
def test_every_encoder_has_a_base_that_fits_each_decoder(name):
    base = Config.fromfile(ROOT.parent / '_base_' / 'finetune' / 'backbones' / f'{name}.py')
    with torch.device('meta'):
        channels = list(build_backbone(name).out_channels)
    assert base.classifier.head.in_channels == channels[-1]
    for part in (base.detector.neck, base.segmentor.decode_head, base.change_detector.decode_head):
        assert part.in_channels == channels
    for part in (base.classifier, base.detector, base.segmentor, base.change_detector):
        assert part.backbone.name == name
        with torch.device('meta'):
            MODELS.build(dict(part.backbone, init_cfg=None))


def build(cfg: Config, device: str = 'meta') -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.device(device):
        return MODELS.build(cfg.model)


def assert_released_keys(model: torch.nn.Module, entry: dict) -> None:
    """The head's keys, types and shapes, and the number of all keys, are those of golden/keys."""
    state = {
        key: f'{str(value.dtype).removeprefix("torch.")}{list(value.shape)}'.replace(' ', '')
        for key, value in model.state_dict().items()
    }
    heads = {key: value for key, value in state.items() if not key.startswith('backbone.')}
    assert heads == entry['non_backbone_keys']
    assert len(state) == entry['num_keys']


def name(path: Path) -> str:
    return '/'.join(path.with_suffix('').parts[-2:])


def test_each_data_set_has_each_backbone():
    expected = {
        f'{data}/{backbone}' for data in RECIPES for backbone in BACKBONES if backbone != 'vit_l'
    } | {'spacenet_v1/vit_l'}
    assert {name(path) for path in PUBLISHED} == expected


@pytest.mark.parametrize('path', PUBLISHED, ids=name)
def test_recipe(path, tmp_path):
    task, data, backbone = path.with_suffix('').parts[-3:]
    classes, side, images, length, warm_up, _ = RECIPES[data]
    _, layers, drop_path, lr, decay = BACKBONES[backbone]
    cfg = Config.fromfile(path)
    check_config(cfg)
    model = build(cfg)

    head = getattr(model, 'decode_head', None) or model.head
    assert head.num_classes == classes
    assert len(DATASETS[data].classes) == classes
    assert tuple(_classes(cfg.train_dataloader.dataset)) == DATASETS[data].classes
    assert cfg.model.backbone.img_size == side and cfg.total_batch_size == images
    assert model.backbone.num_layers == layers
    assert cfg.model.backbone.drop_path_rate == drop_path

    # schedule
    warm, cosine = cfg.param_scheduler
    if task == 'segmentation':
        assert cfg.train_cfg.max_iters == length * 1000 and not warm.by_epoch
        assert (warm.end, cosine.begin, cosine.T_max) == (1500, 1500, 78_500)
    else:
        assert cfg.train_cfg.max_epochs == length and cosine.by_epoch
        assert warm.convert_to_iter_based
        assert (warm.end, cosine.begin, cosine.T_max) == (warm_up, warm_up, length - warm_up)
        assert cfg.train_cfg.val_interval == length / 5
    assert warm.start_factor == 1e-6 and cosine.eta_min == 0

    # optimiser: all that trains, layer by layer
    assert cfg.optim_wrapper.get('clip_grad') is None
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert sum(len(group['params']) for group in groups) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )
    rates = sorted({group['lr'] for group in groups})
    assert np.allclose(rates, [lr * decay ** (layers + 1 - i) for i in range(layers + 2)])
    assert {group['weight_decay'] for group in groups} == {0.0, 0.05}
    assert groups[0]['betas'] == (0.9, 0.999)

    if backbone == 'vit_b_rvsa':
        # a run writes its config beside its results: it must give the same model
        cfg.dump(tmp_path / 'dumped.py')
        dumped = Config.fromfile(tmp_path / 'dumped.py')
        check_config(dumped)
        again = build(dumped)
        assert again.state_dict().keys() == model.state_dict().keys()


def _classes(dataset: dict) -> tuple:
    if 'dataset' in dataset:
        return DATASETS[dataset.dataset].classes
    return dataset.get('metainfo', dataset.type.METAINFO)['classes']


@pytest.mark.parametrize(
    'path',
    [path for path in PUBLISHED if RECIPES[path.parent.name][-1] and BACKBONES[path.stem][0]],
    ids=name,
)
def test_keys_are_those_of_the_released_models(path, shared):
    released = json.loads((shared / 'golden' / 'keys' / 'finetune_heads.json').read_text())
    entry = released[f'{RECIPES[path.parent.name][-1]}/{BACKBONES[path.stem][0]}']
    model = build(Config.fromfile(path))
    assert_released_keys(model, entry)
    assert sum(p.numel() for p in model.parameters()) == entry['num_parameters']


@pytest.mark.parametrize(
    'path',
    [
        path
        for path in CONFIGS
        if path.stem == 'vit_b_rvsa'
        or name(path) in ('eurosat/internimage_xl', 'loveda/internimage_xl', 'levir/internimage_xl')
    ],
    ids=name,
)
def test_tiny_version_trains_and_predicts(path):
    task, data_set = path.parts[-3:-1]
    cfg = Config.fromfile(path)
    shrink(cfg, 64)
    model = build(cfg, 'cpu')
    model.init_weights()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    samples = [make_sample(task, cfg, i) for i in range(2)]
    data = dict(zip(('inputs', 'data_samples'), map(list, zip(*samples))))

    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    # distributed training waits for every one of them
    assert not [
        key
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    before = first.detach().clone()
    optimizer.step()
    assert not torch.equal(first, before)

    model.eval()
    with torch.no_grad():
        found = model.test_step(
            dict(inputs=data['inputs'][:1], data_samples=data['data_samples'][:1])
        )[0]
    classes = len(DATASETS[data_set].classes)
    if task == 'classification':
        assert found.pred_score.shape == (classes,)
        assert found.pred_score.sum() == pytest.approx(1, abs=1e-4)
    else:
        assert found.pred_sem_seg.data.shape == (1, *found.ori_shape)
        assert found.pred_sem_seg.data.max() < classes


def make_sample(task: str, cfg: Config, seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    side = 64
    image = torch.randint(
        0,
        256,
        (6 if task == 'change_detection' else 3, side, side),
        generator=generator,
        dtype=torch.uint8,
    )
    meta = dict(img_path=f'{seed}.png', ori_shape=(side, side), img_shape=(side, side))
    if task == 'classification':
        return image, DataSample(metainfo=meta).set_gt_label(seed)
    sample = SegDataSample(metainfo=meta)
    label = torch.randint(
        0, cfg.model.decode_head.num_classes, (1, side, side), generator=generator
    )
    sample.gt_sem_seg = PixelData(data=label)
    return image, sample
