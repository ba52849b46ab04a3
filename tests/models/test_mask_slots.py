"""Mask losses of packed positives against mmdet's, and what a quota leaves out."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from mtp import batch_rungs, mask_quota
from mtp.models.tasks.base import TaskBatch, average
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.sample_fields import paint_masks
from tests.models.small import build_model, make_sample

THREE = dict(
    a=dict(num_classes=2), b=dict(num_classes=3), boxes_alone=dict(num_classes=2, masks=False)
)
OBJECTS = [
    ((1, (10, 12, 40, 30)), (0, (30, 34, 60, 60))),
    (),
    ((1, (2, 40, 30, 60)), (1, (34, 4, 60, 20)), (0, (8, 8, 24, 30))),
]
SIZE = 64


def make_batch(images):
    """A batch of images, each a data set and the index of its objects."""
    samples = [make_sample(name, ('instance',), OBJECTS[i], seed=i) for name, i in images]
    model = build_model(THREE, ('instance',))
    data = model.data_preprocessor(
        dict(inputs=[image for image, _ in samples], data_samples=[s for _, s in samples]), True
    )
    groups, names = {}, [name for name, _ in images]
    for name in dict.fromkeys(names):
        start = names.index(name)
        groups[name] = slice(start, start + names.count(name))
    return model, TaskBatch(data['data_samples'], groups, torch.device('cpu'))


def sample_positives(head, truth):
    """Sample boxes around the objects: several positives for each."""
    generator = torch.Generator().manual_seed(1)
    shift = 2 * torch.randn(4, 1, *truth.boxes.shape[1:], generator=generator)
    boxes = torch.cat([truth.boxes, *(truth.boxes + shift)], 1)
    valid = truth.valid.repeat(1, 5)
    proposals = SimpleNamespace(boxes=boxes, valid=valid)
    rois, samples, _ = head.targets(proposals, truth)
    return rois, samples


def our_losses(images):
    """Losses by data set, with the model, and all that they were computed from."""
    model, batch = make_batch(images)
    head = model.tasks['instance'].roi_head
    truth = GroundTruth.collect(batch, 'gt_instances', True)
    rois, samples = sample_positives(head, truth)
    generator = torch.Generator().manual_seed(2)
    maps = [
        torch.randn(len(images), 64, SIZE // s, SIZE // s, generator=generator).requires_grad_()
        for s in (4, 8, 16, 32, 64)
    ]
    terms, logged = head._mask_losses(maps, rois, samples, truth, batch)
    losses = average(batch, [terms], [logged])
    return losses, SimpleNamespace(
        head=head, batch=batch, truth=truth, boxes=rois[..., 1:], samples=samples, maps=maps
    )


def mmdets_losses(given, kept):
    """Losses by mmdet's code on the first ``kept[i]`` positives of each image."""
    head, losses = given.head, {}
    painted = paint_masks(**given.truth.masks)
    for name, group in given.batch.groups.items():
        if name not in head.mask_heads:
            continue
        results, instances, rois = [], [], []
        for i in range(group.start, group.stop):
            boxes = given.boxes[i, : kept[i]]
            results.append(
                SimpleNamespace(
                    pos_priors=boxes,
                    pos_assigned_gt_inds=given.samples.object[i, : kept[i]],
                    pos_gt_labels=given.truth.labels[i][given.samples.object[i, : kept[i]]],
                )
            )
            masks = painted[given.truth.number[i]].numpy()
            instances.append(InstanceData(masks=BitmapMasks(masks, SIZE, SIZE)))
            rois.append(torch.cat([torch.full((kept[i], 1), float(i)), boxes], 1))
        feats = head._mask_forward(given.maps, torch.cat(rois))['mask_preds']
        mask_head = head.mask_heads[name]
        found = mask_head.loss_and_target(mask_head(feats), results, instances, head.train_cfg)
        losses[name] = found['loss_mask']['loss_mask'].squeeze()
    return losses


def gradients(given, losses):
    """Gradients of the sum of losses, for the mask heads and the finest feature map."""
    found = {name: p for name, p in given.head.named_parameters() if 'mask' in name}
    found['features'] = given.maps[0]
    return dict(zip(found, torch.autograd.grad(sum(losses), [*found.values()])))


@pytest.mark.parametrize('quota', [100, 3])
def test_losses_and_gradients_are_mmdets_on_what_is_kept(quota, monkeypatch):
    monkeypatch.setattr(mask_quota, 'PER_OBJECT', 0)
    monkeypatch.setattr(mask_quota, 'EXTRA', quota)
    images = [('a', 0), ('a', 1), ('b', 2), ('b', 0), ('boxes_alone', 2)]
    losses, given = our_losses(images)
    assert [name for name, terms in losses.items() if terms] == ['a', 'b']
    ours = gradients(given, [terms['loss_mask'] for terms in losses.values() if terms])

    positives = given.samples.positive.sum(1)
    assert positives.max() > 4
    kept = positives.clamp(max=quota)
    expected = mmdets_losses(given, kept.tolist())
    for name, value in expected.items():
        torch.testing.assert_close(losses[name]['loss_mask'], value, rtol=1e-5, atol=1e-6)
    for name, value in gradients(given, expected.values()).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6, msg=name)

    for name, group in list(given.batch.groups.items())[:2]:
        share = float(1 - kept[group].sum() / positives[group].sum())
        assert float(losses[name]['masks_left_out']) == pytest.approx(100 * share, abs=1e-3)
        assert bool(share) == (quota == 3)


def test_without_any_object_each_mask_parameter_gets_a_gradient():
    losses, given = our_losses([('a', 1), ('b', 1), ('boxes_alone', 0)])
    found = gradients(given, [terms['loss_mask'] for terms in losses.values() if terms])
    assert all(grad is not None and not grad.any() for grad in found.values())


def test_a_batch_without_masks_has_no_mask_losses():
    model, batch = make_batch([('boxes_alone', 0)])
    features = [torch.zeros(1, 16, SIZE // s, SIZE // s) for s in (4, 8, 16, 32)]
    losses = model.tasks['instance'].loss(features, batch)['boxes_alone']
    assert [*losses] == ['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'acc']


def test_an_image_keeps_the_same_positives_in_any_batch(monkeypatch):
    monkeypatch.setattr(mask_quota, 'EXTRA', 0)
    monkeypatch.setattr(mask_quota, 'PER_OBJECT', 2)
    images = [('a', 0), ('a', 2), ('b', 2), ('b', 0)]

    def rois(images):
        model, batch = make_batch(images)
        head = model.tasks['instance'].roi_head
        truth = GroundTruth.collect(batch, 'gt_instances', True)
        found = []
        head._mask_features = lambda _, rois: (
            found.append(rois) or torch.zeros(len(rois), 64, 14, 14)
        )
        head._mask_losses((), *sample_positives(head, truth), truth, batch)
        (found,) = found
        return [found[found[:, 0] == i, 1:] for i in range(len(images))]

    together = rois(images)
    alone = [rois([image])[0] for image in images]
    assert [len(of_image) for of_image in together] == [4, 6, 6, 4]
    for one, other in zip(together, alone):
        torch.testing.assert_close(one, other)


def test_a_batch_takes_the_lowest_rung_that_holds_it():
    images, shape = 12, (64, 64)
    found = [batch_rungs.lowest_rung([n] * images, 0, shape) for n in range(200)]
    assert len(set(found)) == 6
    for objects, rung in enumerate(found):
        assert images * mask_quota.mask_quota(objects) <= rung.masks
        assert objects <= rung.slots and images * objects <= rung.objects
    assert [rung.masks for rung in found] == sorted(rung.masks for rung in found)
    crowded = batch_rungs.lowest_rung([40, *[1] * 11], 0, shape)  # one image decides on the slots
    assert crowded.slots == 64 and batch_rungs.lowest_rung([1] * images, 0, shape).slots == 16
    large = batch_rungs.lowest_rung([1] * images, images * 64 * 64, shape)  # or its masks
    assert large.pixels == images * 64 * 64 and large.slots == 64
    beyond = batch_rungs.lowest_rung([700, 0], 3, shape)
    assert beyond == batch_rungs.Rung(1024, 1024, 4, 2 * mask_quota.MOST)
    assert mask_quota.mask_quota(torch.tensor([0, 1, 7, 99])).tolist() == [
        mask_quota.mask_quota(n) for n in (0, 1, 7, 99)
    ]
