"""The multi-task model: any data sets, any tasks, any process count."""

import json
from unittest.mock import patch

import pytest
import torch

from mtp import mask_quota
from mtp.models.weights.official import convert_official
from tests.distributed import run_processes
from tests.models.small import TASKS, TINY_RVSA, build_model, losses_of, make_sample

TWO = dict(a=dict(num_classes=2), b=dict(num_classes=3, tasks=('semantic', 'rotated')))


def test_dataset_without_labels_of_a_task():
    model = build_model(TWO).train()
    losses = losses_of(
        model,
        [
            make_sample('b', TWO['b']['tasks'], seed=1),
            make_sample('a', seed=2),
            make_sample('b', TWO['b']['tasks'], seed=3),
            make_sample('a', seed=4),
        ],
    )
    terms = {'.'.join(key.split('.')[:2]) for key in losses}
    assert terms == {'a.semantic', 'a.instance', 'a.rotated', 'b.semantic', 'b.rotated'}
    assert 'b' not in model.tasks['instance'].roi_head.bbox_heads


def test_hooks_see_every_layer_but_those_that_are_computed_together():
    """Searches for faults, and faults that are made for a test, rest on them."""
    model = build_model(TWO, backbone=TINY_RVSA).train()
    called = set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    losses_of(model, [make_sample('a', seed=seed) for seed in range(2)])
    together = {'rpn_cls', 'rpn_reg', 'fc_cls', 'fc_reg', 'conv_logits'}
    in_operators = {'sampling_offsets.2', 'sampling_scales.2', 'sampling_angles.2', 'bn'}
    unused = {'backbone.norm', 'conv_seg'}
    missed = {
        name
        for name, module in model.named_modules()
        if [*module.parameters(recurse=False)] and name not in called
    }
    missed = {name for name in missed if 'bbox_heads.b' not in name and 'classifiers.b' not in name}
    assert {
        name for name in missed if not name.endswith((*together, *in_operators, *unused))
    } == set()
    assert {'backbone.patch_embed', 'tasks.instance.neck'} <= called


def test_boxes_without_masks_train_all_but_the_mask_head():
    tasks = ('instance',)
    samples = [make_sample(name, tasks, seed=seed) for seed, name in enumerate('aabb')]
    losses = {}
    for masks in (True, False):
        two = dict(a=dict(num_classes=2), b=dict(num_classes=2, masks=masks))
        model = build_model(two, tasks).train()
        losses[masks] = losses_of(model, samples)
    of_masks = {'b.instance.loss_mask', 'b.instance.masks_left_out'}
    assert losses[True].keys() - losses[False].keys() == of_masks
    head = model.tasks['instance'].roi_head
    assert list(head.mask_heads) == ['a'] and list(head.bbox_heads) == ['a', 'b']
    total, _ = model.parse_losses(losses[False])
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    _, sample = samples[3]
    sample.set_metainfo(dict(scale_factor=(2.0, 4.0)))
    data = model.data_preprocessor(dict(inputs=[samples[3][0]], data_samples=[sample]))
    found = {}
    for masks in (False, True):  # boxes are those of the image before it was resized
        two = dict(a=dict(num_classes=2), b=dict(num_classes=2, masks=masks))
        model = build_model(two, tasks).eval()
        head = model.tasks['instance'].roi_head
        head.test_cfg.score_thr = 0.0
        (result,) = model(**data, mode='predict')
        found[masks] = result.pred_instances
    assert 'masks' in found[True] and 'masks' not in found[False] and len(found[False])
    assert float(found[False].bboxes[:, 3].max()) <= 64 / 4 < float(found[False].bboxes.max())

    alone = build_model(dict(b=dict(num_classes=2, masks=False)), tasks)
    assert not [name for name, _ in alone.named_parameters() if 'mask' in name]


def test_images_without_objects_keep_every_parameter_in_the_graph():
    model = build_model(TWO).train()
    empty = [
        make_sample(name, TWO[name].get('tasks', TASKS), objects=(), seed=seed)
        for seed, name in enumerate('aabb')
    ]
    total, _ = model.parse_losses(losses_of(model, empty))
    total.backward()
    assert torch.isfinite(total)
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, 'DDP would wait for these'


def test_bfloat16_autocast_changes_losses_little():
    model = build_model(TWO).train()
    samples = [
        make_sample(name, TWO[name].get('tasks', TASKS), seed=i) for i, name in enumerate('aabb')
    ]
    expected = model.parse_losses(losses_of(model, samples))[1]
    with torch.autocast('cpu', torch.bfloat16):
        total, log_vars = model.parse_losses(losses_of(model, samples))
    total.backward()
    assert total.dtype == torch.float32
    for key, value in expected.items():
        if '.acc' not in key:
            assert log_vars[key].item() == pytest.approx(value.item(), rel=0.05, abs=0.05), key


def test_predictions_learn_to_fit():
    """A few steps on two images are enough to find their objects: all three tasks train."""
    model = build_model(dict(a=dict(num_classes=2))).train()
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        samples = [make_sample('a', seed=seed) for seed in (1, 2)]
        loss, _ = model.parse_losses(losses_of(model, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    image, sample = make_sample('a', seed=1)
    sample.set_metainfo(dict(ori_shape=(128, 128), scale_factor=(0.5, 0.5)))
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    (result,) = model(**data, mode='predict')

    assert result.pred_sem_seg.sem_seg.shape == (1, 128, 128)
    small = result.pred_sem_seg.sem_seg[:, ::2, ::2]
    assert (small == sample.gt_sem_seg.sem_seg).float().mean() > 0.9
    for found, truth in (
        (result.pred_instances, sample.gt_instances),
        (result.pred_rotated_instances, sample.gt_rotated_instances),
    ):
        best = found[found.scores.argsort(descending=True)][:2]
        assert sorted(best.labels.tolist()) == sorted(truth.labels.tolist())
    best = result.pred_instances[result.pred_instances.labels == 1]
    torch.testing.assert_close(
        best.bboxes[0], 2 * sample.gt_instances.bboxes.tensor[0], atol=12, rtol=0
    )
    assert best.masks.shape[1:] == (128, 128) and best.masks.dtype == torch.bool


@pytest.mark.parametrize(
    'datasets, tasks, message',
    [
        (dict(a=dict(num_classes=2, tasks=('semantic', 'depth'))), TASKS, "'depth'"),
        (dict(a=dict(num_classes=2, tasks=('semantic',))), TASKS, "task 'instance'"),
        ({'a.b': dict(num_classes=2)}, TASKS, "'a.b'"),
    ],
)
def test_inconsistent_configs_are_refused(datasets, tasks, message):
    with pytest.raises(ValueError, match=message):
        build_model(datasets, tasks)


def test_image_of_unknown_dataset_is_refused():
    model = build_model(dict(a=dict(num_classes=2)))
    with pytest.raises(ValueError, match="data set 'c'"):
        losses_of(model, [make_sample('c')])


# One process has the images 0..3 of each data set, of two the first has 0, 1 and the second 2, 3.
# They hold different numbers of objects, so that normalisers differ between the processes.
OBJECTS = [
    ((1, (10, 12, 40, 30)), (0, (30, 34, 60, 60))),
    ((0, (5, 5, 20, 50)),),
    (),
    ((1, (2, 40, 30, 60)), (1, (34, 4, 60, 20)), (0, (8, 8, 24, 30))),
]


def _train_step(rank, world_size):
    model = build_model(TWO).train()
    share = len(OBJECTS) // world_size
    samples = [
        make_sample(name, TWO[name].get('tasks', TASKS), OBJECTS[i], seed=i)
        for name in 'ab'
        for i in range(rank * share, (rank + 1) * share)
    ]
    with patch.multiple(mask_quota, EXTRA=0, PER_OBJECT=1):  # some positives are left out
        loss, log_vars = model.parse_losses(losses_of(model, samples))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {k: v.item() for k, v in log_vars.items()}, gradients


@pytest.mark.slow
def test_two_processes_give_the_losses_and_gradients_of_one():
    expected_losses, expected_gradients = _train_step(0, 1)
    (losses, gradients0), (losses1, gradients1) = run_processes(_train_step, 2, 2)
    assert losses == losses1
    assert expected_losses['a.instance.masks_left_out'] > 0
    for key, value in expected_losses.items():
        if 'loss' in key:  # others are means of the processes' means
            assert losses[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    for name, expected in expected_gradients.items():
        ours = (gradients0[name] + gradients1[name]) / 2  # as DDP averages
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize('backbone', ['vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl'])
def test_every_tensor_of_the_official_checkpoint_finds_its_place(shared, backbone, request):
    from mmengine.config import Config

    from mtp.registry import MODELS

    with open(shared / 'golden' / 'keys' / f'mtp_{backbone}_448.json') as file:
        keys = json.load(file)['keys']
    config = request.config.rootpath / 'configs' / 'pretrain' / f'{backbone}_samrs.py'
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(config).model)
    ours = {
        key: f'{str(t.dtype).removeprefix("torch.")}{list(t.shape)}'.replace(' ', '')
        for key, t in model.state_dict().items()
    }
    assert ours == convert_official(keys)


def test_a_file_that_is_no_whole_model_is_refused():
    with pytest.raises(ValueError, match='whole pretraining'):
        convert_official({'blocks.0.attn.qkv.weight': torch.zeros(3)})
    with pytest.raises(ValueError, match='1 data sets'):
        convert_official({'semseghead_2.1.weight': torch.zeros(3)}, datasets=['a'])


def test_semantic_accuracy_counts_labels_of_the_highest_logit():
    model = build_model(dict(a=dict(num_classes=2)), ('semantic',))
    logits = torch.tensor([[[3.0, 0, 1, 5]], [[1.0, 2, 4, 5]], [[0.0, 9, 2, 0]]])[None]
    labels = torch.tensor([[[0, 1, 255, 1]]])  # right, wrong, ignored, as high as another
    terms = model.tasks.semantic.terms(logits, labels)
    assert terms['acc_seg'] == pytest.approx(200 / 3)
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255, reduction='sum')
    torch.testing.assert_close(terms['loss_ce'], expected / 4)
