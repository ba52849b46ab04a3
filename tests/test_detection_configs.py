"""Every detection config against the paper's recipe; a tiny one of each data set learns a step."""

import json

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import RotatedBoxes

from mtp.cli.config_check import check_config
from mtp.data.datasets import DATASETS
from mtp.recipes import table
from mtp.recipes.shrink import shrink
from tests.test_finetune_configs import BACKBONES, ROOT, assert_released_keys, build, name

CONFIGS = sorted(
    path
    for task in ('horizontal_detection', 'rotated_detection')
    for path in (ROOT / task).glob('*/*.py')
)

# data set -> image side, images a step, epochs, when the rate falls, key in finetune_heads.json
RECIPES = {
    'xview': (416, 8, 12, [8, 11], 'hdet/xview'),
    'dior': (800, 4, 12, [8, 11], 'hdet/dior'),
    'dior_r': (800, 4, 12, [8, 11], 'rdet/diorr'),
    'fair1m': (800, 4, 12, [8, 11], 'rdet/fair1m'),
    'fair1m_ms': (800, 4, 12, [8, 11], None),
    'dota_v1': (1024, 4, 12, [8, 11], None),
    'dota_v1_ms': (1024, 4, 12, [8, 11], 'rdet/dotav1'),
    'dota_v2': (1024, 4, 40, [24, 32, 38], None),
    'dota_v2_ms': (1024, 4, 40, [24, 32, 38], None),
}
PUBLISHED = [path for path in CONFIGS if path.parent.name in RECIPES]


def head_of(model: torch.nn.Module):
    return model.roi_head.bbox_head if hasattr(model, 'roi_head') else model.bbox_head


def test_each_data_set_has_each_backbone():
    assert {name(path) for path in PUBLISHED} == {
        f'{data}/{backbone}' for data in RECIPES for backbone in BACKBONES if backbone != 'vit_l'
    }


@pytest.mark.parametrize('path', PUBLISHED, ids=name)
def test_recipe(path, tmp_path, request):
    data, backbone = path.with_suffix('').parts[-2:]
    side, images, epochs, milestones, key = RECIPES[data]
    size, layers, drop_path, _, decay = BACKBONES[backbone]
    cfg = Config.fromfile(path)
    check_config(cfg)
    model = build(cfg)
    dataset, _ = table.dataset_of(data)
    assert head_of(model).num_classes == len(DATASETS[dataset].classes)
    assert cfg.model.backbone.img_size == side and cfg.total_batch_size == images
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    for dataset in (*train.get('datasets', [train]), test):
        assert [tuple(step.scale) for step in dataset.pipeline if 'scale' in step] == [(side, side)]
    assert (model.backbone.num_layers, cfg.model.backbone.drop_path_rate) == (layers, drop_path)

    warm, steps = cfg.param_scheduler
    assert (warm.start_factor, warm.end, warm.by_epoch) == (1e-6, 500, False)
    assert cfg.train_cfg.max_epochs == epochs
    assert (steps.milestones, steps.gamma, steps.by_epoch) == (milestones, 0.1, True)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = sorted({group['lr'] for group in groups})
    assert np.allclose(rates, [1e-4 * decay ** (layers + 1 - i) for i in range(layers + 2)])

    if key:
        released = json.loads(
            (
                request.getfixturevalue('shared') / 'golden' / 'keys' / 'finetune_heads.json'
            ).read_text()
        )[f'{key}/{size}']
        assert_released_keys(model, released)
    if backbone == 'vit_b_rvsa':
        # a run writes its config beside its results: it must give the same model
        cfg.dump(tmp_path / 'dumped.py')
        dumped = Config.fromfile(tmp_path / 'dumped.py')
        check_config(dumped)
        again = build(dumped)
        assert again.state_dict().keys() == model.state_dict().keys()


def make_sample(rotated: bool) -> tuple[torch.Tensor, DetDataSample]:
    """An image of 128 x 128 pixels with two objects."""
    # Objects as large as the anchors that lie inside so small an image.
    boxes = torch.tensor([[32.0, 40.0, 60.0, 24.0, 0.4], [90.0, 80.0, 50.0, 30.0, -0.7]])
    if rotated:
        boxes = RotatedBoxes(boxes)
    else:
        boxes = HorizontalBoxes(torch.tensor([[2.0, 28.0, 62.0, 52.0], [65.0, 65.0, 115.0, 95.0]]))
    sample = DetDataSample(
        metainfo=dict(
            img_path='a.png',
            img_id=0,
            ori_shape=(128, 128),
            img_shape=(128, 128),
            scale_factor=(1.0, 1.0),
        )
    )
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 3]))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0).long())
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    return image, sample


@pytest.mark.parametrize(
    'path',
    [
        path
        for path in CONFIGS
        if name(path)
        in ('dior/vit_b_rvsa', 'xview/vit_b_rvsa', 'dior_r/vit_b_rvsa', 'dota_v1/internimage_xl')
    ],
    ids=name,
)
def test_tiny_version_trains_and_predicts(path):
    cfg = Config.fromfile(path)
    shrink(cfg, 128)
    rotated = 'rotated' in str(path)
    model = build(cfg, 'cpu')
    model.init_weights()
    image, sample = make_sample(rotated)
    data = dict(inputs=[image] * 2, data_samples=[sample, sample.clone()])

    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    # Distributed training takes it that the same ones are unused in every step: RetinaNet leaves
    # out the map at stride 4, and so the ViT's layers that make it.
    unused = [
        key
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert bool(unused) == ('xview' in str(path))
    assert all(key.startswith('backbone.fpn1.') for key in unused)

    model.eval()
    model.test_cfg.get('rcnn', model.test_cfg).score_thr = 0.0
    found = model.test_step(dict(inputs=[image], data_samples=[sample]))[0].pred_instances
    assert len(found) and found.labels.max() < head_of(model).num_classes
    assert found.bboxes.shape[1] == (5 if rotated else 4)
