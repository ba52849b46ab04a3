"""Box losses of last layers that are computed together against mmdet's, data set by data set."""

import pytest
import torch
from mmengine.config import Config

from mtp.models.tasks.base import TaskBatch, average
from mtp.models.tasks.sampling import Samples
from mtp.registry import MODELS
from tests.models.small import CONFIGS, build_model

DATASETS = dict(a=dict(num_classes=2), b=dict(num_classes=3))
IMAGES, SLOTS, MOST = dict(a=2, b=1), 6, 3


@pytest.mark.parametrize('task', ['instance', 'rotated'])  # deltas of each class, and of all
def test_losses_and_gradients_are_mmdets(task):
    head = build_model(DATASETS, (task,)).tasks[task].roi_head
    generator = torch.Generator().manual_seed(0)
    batch = TaskBatch([], dict(a=slice(0, 2), b=slice(2, 3)), torch.device('cpu'))
    images = sum(IMAGES.values())
    filled = torch.tensor([6, 4, 5])[:, None] > torch.arange(SLOTS)
    positive = torch.tensor([3, 1, 0])[:, None] > torch.arange(SLOTS)
    labels = torch.randint(2, (images, MOST), generator=generator)
    size = head.bbox_head.bbox_coder.encode_size
    targets = torch.randn(images, MOST, size, generator=generator)
    feats = torch.randn(images * SLOTS, head.bbox_head.cls_last_dim, generator=generator)
    head._bbox_forward = lambda *_: dict(cls_score=feats)
    samples = Samples(None, positive, filled, None, MOST)

    losses, logged = head._box_losses(
        (), torch.zeros(images, SLOTS, 5), samples, (labels, targets), batch
    )
    found = average(batch, [losses], [logged])
    parameters = [*head.bbox_heads.parameters()]
    total = sum(terms['loss_cls'] + 2 * terms['loss_bbox'] for terms in found.values())
    gradients = torch.autograd.grad(total, parameters)

    total = 0
    for name, group in batch.groups.items():
        of_class = head.bbox_heads[name]
        logits, deltas = of_class(feats.unflatten(0, (images, SLOTS))[group].flatten(0, 1))
        wanted = torch.full((IMAGES[name], SLOTS), of_class.num_classes)
        wanted[:, :MOST] = labels[group].where(positive[group, :MOST], of_class.num_classes)
        boxes = torch.zeros(IMAGES[name], SLOTS, size)
        boxes[:, :MOST] = targets[group]
        expected = of_class.loss(
            logits,
            deltas,
            torch.zeros(len(logits), 5),
            wanted.flatten(),
            filled[group].flatten().float(),
            boxes.flatten(0, 1),
            positive[group].flatten()[:, None].expand(-1, size).float(),
        )
        for term in ('loss_cls', 'loss_bbox'):
            # mmdet divides losses of boxes by the number of rows, padded ones included
            value = expected[term] * (
                1 if term == 'loss_cls' else len(logits) / filled[group].sum()
            )
            torch.testing.assert_close(found[name][term], value)
            total = total + value * (1 if term == 'loss_cls' else 2)
    torch.testing.assert_close(gradients, torch.autograd.grad(total, parameters))


@pytest.mark.parametrize(
    'change',
    [
        dict(),
        dict(norm_cfg=dict(type='GN', num_groups=4)),
        dict(conv_cfg=dict(type='Conv2d', padding_mode='reflect')),
    ],
)
def test_the_mask_trunk_is_mmdets(change):
    cfg = Config.fromfile(CONFIGS / '_base_/pretrain/heads/instance.py').instance
    settings = dict(cfg.roi_head, num_classes=dict(a=2), train_cfg=cfg.train_cfg.rcnn)
    trunk = dict(num_convs=2, in_channels=8, conv_out_channels=8)
    settings['mask_head'] = dict(settings['mask_head'], **trunk, **change)
    head = MODELS.build(dict(settings, test_cfg=cfg.test_cfg.rcnn))
    feats = torch.randn(3, 8, 7, 5, requires_grad=True)
    head.mask_roi_extractor.forward = lambda *_: feats
    theirs = MODELS.build(dict(settings['mask_head'], num_classes=1))
    theirs.conv_logits = torch.nn.Identity()
    theirs.load_state_dict(head.mask_head.state_dict())
    weights = torch.randn(3, 8, 14, 10)
    results = []
    for trunk, result in (
        (head.mask_head, head.mask_head.upsample(head._mask_features((), None))),
        (head.mask_head, head.mask_head(feats)),
        (theirs, theirs(feats)),
    ):
        grads = torch.autograd.grad(result, [feats, *trunk.parameters()], weights)
        results.append([result, *grads])
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])


@pytest.mark.parametrize(
    'change',
    [
        dict(loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True)),
        dict(loss_cls=dict(type='mmdet.CrossEntropyLoss', class_weight=[1.0, 1.0])),
        dict(loss_cls=dict(type='mmdet.CrossEntropyLoss', ignore_index=1)),
        dict(cls_predictor_cfg=dict(type='Linear', bias=False)),
        dict(with_reg=False),
    ],
)
def test_what_a_joined_layer_cannot_do_is_refused(change):
    cfg = Config.fromfile(CONFIGS / '_base_/pretrain/heads/instance.py').instance
    settings = dict(cfg.roi_head, num_classes=dict(a=2), mask_head=None)
    settings['bbox_head'] = dict(settings['bbox_head'], **change)
    settings |= dict(train_cfg=cfg.train_cfg.rcnn, test_cfg=cfg.test_cfg.rcnn)
    with pytest.raises(ValueError, match='SharedRoIHead takes'):
        MODELS.build(settings)
