"""``mtp export --to onnx`` and ``torch_export``: trained models give the same without mtp."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import RotatedBoxes

from mtp.cli.main import main
from mtp.export.detectors import MOST_BOXES
from mtp.export.graphs import (
    ALIKE,
    TOLERANCE,
    onnx_alike,
    onnx_difference,
    portable,
    trace,
    write_onnx,
)
from mtp.models import build_backbone
from mtp.recipes import table
from mtp.recipes.shrink import shrink
from mtp.registry import MODELS

SIDE = 64


def finetuned(dataset, side=SIDE, **encoder):
    torch.manual_seed(0)
    cfg = Config.fromfile(table.config_of(dataset, 'vit_b_rvsa'))
    shrink(cfg, side)
    cfg.model.backbone.update(encoder)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def train(model, side=SIDE):
    """Train for 50 steps, so that no weight has its initial value, which may be zero."""
    torch.manual_seed(0)
    form = portable(model)
    optimizer = torch.optim.AdamW(form.module.parameters(), lr=5e-4)
    images = torch.randn(2 if form.free_batch else 1, form.bands, side, side)
    with torch.no_grad():
        targets = [output + torch.randn_like(output) for output in form.module.train()(images)]
    for _ in range(50):
        loss = sum(F.mse_loss(*pair) for pair in zip(form.module(images), targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def export(model, path, nms=False, size=(SIDE, SIDE)):
    form = portable(model, nms)
    write_onnx(trace(form, size), form, path)
    return form


def images(bands, batch, *size):
    return torch.randn(batch, bands, *size, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(scope='module')
def vit():
    return train(build_backbone('vit_tiny_rvsa', img_size=SIDE))


def test_a_trained_vit_gives_the_same_maps_for_any_number_of_images(vit, tmp_path):
    model = copy.deepcopy(vit)
    form = export(model, tmp_path / 'a.onnx')
    batches = [images(3, count, SIDE, SIDE) for count in (1, 3)]
    assert onnx_difference(tmp_path / 'a.onnx', form.module, batches) < TOLERANCE
    with torch.no_grad():
        model.blocks[3].mlp.fc2.bias += 1
    assert onnx_difference(tmp_path / 'a.onnx', form.module, batches) > 100 * TOLERANCE


@pytest.mark.slow
def test_a_trained_vit_gives_the_same_maps_at_a_second_size(vit, tmp_path):
    """A graph for each size, from the same weights; the first test has the first."""
    form = export(vit, tmp_path / 'a.onnx', size=(96, 80))
    assert onnx_difference(tmp_path / 'a.onnx', form.module, [images(3, 1, 96, 80)]) < TOLERANCE


@pytest.mark.slow
def test_one_graph_of_internimage_takes_any_size(tmp_path):
    model = train(build_backbone('internimage_pico', depths=(1, 1, 1, 1)))
    form = export(model, tmp_path / 'a.onnx')
    batches = [images(3, 2, 64, 64), images(3, 1, 96, 160)]
    assert onnx_difference(tmp_path / 'a.onnx', form.module, batches) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize('dataset', ['eurosat', 'loveda', 'levir', 'xview'])
def test_finetuned_models_give_the_same(dataset, tmp_path):
    # the largest anchors have 800 pixels: on small images, rounding moves their boxes by more
    side = 128 if dataset == 'xview' else SIDE
    # but for one, without the windows of the tests above: they are two thirds of a graph's nodes
    encoder = {} if dataset == 'eurosat' else dict(interval=1, relative_position=False)
    model = train(finetuned(dataset, side, **encoder), side)
    form = export(model, tmp_path / 'a.onnx', size=(side, side))
    assert form.bands == (6 if dataset == 'levir' else 3)
    batches = [images(form.bands, count, side, side) for count in (2, 1)]
    assert onnx_difference(tmp_path / 'a.onnx', form.module, batches) < TOLERANCE
    if dataset == 'xview':
        with_nms = export(model, tmp_path / 'b.onnx', nms=True, size=(side, side))
        one = images(3, 1, side, side)
        assert 0 < len(with_nms.module(one)[0]) < MOST_BOXES
        assert onnx_alike(tmp_path / 'b.onnx', with_nms.module, one) > ALIKE


def train_detector(model, side):
    """Train for 50 steps on other images and boxes each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    rotated = model.roi_head.bbox_head.predict_box_type == 'rbox'
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        sample = DetDataSample(
            metainfo=dict(img_shape=(side, side), pad_shape=(side, side), scale_factor=(1.0, 1.0))
        )
        centre, size = (torch.rand(4, 2, generator=generator) * side / 2 + side / 4 for _ in 'ab')
        angle = torch.rand(4, 1, generator=generator) - 0.5
        boxes = (
            RotatedBoxes(torch.cat([centre, size, angle], 1))
            if rotated
            else torch.cat([centre - size / 2, centre + size / 2], 1)
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(4))
        image = torch.randn(1, 3, side, side, generator=generator)
        losses, _ = model.parse_losses(model.loss(image, [sample]))
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize('dataset, nms', [('dior', True), ('dior_r', False)])
def test_two_stage_detectors_find_what_mmdet_finds(dataset, nms, tmp_path):
    side = 128
    model = finetuned(dataset, side, interval=1, relative_position=False)
    model = train_detector(model, side)
    form = export(model, tmp_path / 'a.onnx', nms, (side, side))
    batches = [images(3, 1, side, side), torch.rand(1, 3, side, side)]
    assert all(onnx_alike(tmp_path / 'a.onnx', form.module, one) > ALIKE for one in batches)

    sample = DetDataSample(metainfo=dict(img_shape=(side, side), scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        (expected,) = model.predict(batches[0], [sample], rescale=False)
        boxes, scores, *labels = form.module(batches[0])
    expected = expected.pred_instances
    if nms:
        kept = torch.cat([boxes, scores[:, None], labels[0][:, None]], 1)
    else:  # boxes of the proposals, of which mmdet's NMS leaves some
        proposals, classes = scores[0].shape
        kept = torch.cat(
            [
                boxes[0].repeat_interleave(classes, 0),
                scores[0].reshape(-1, 1),
                torch.arange(classes).repeat(proposals)[:, None],
            ],
            1,
        )
        with pytest.raises(ValueError, match='ONNX has no nms_rotated'):
            portable(model, nms=True)
    right = torch.cat([expected.bboxes, expected.scores[:, None], expected.labels[:, None]], 1)
    assert len(right) > 20
    nearest = torch.cdist(right, kept, p=torch.inf).amin(1)
    # mmdet moves classes further apart before its NMS, which rounds nearly equal overlaps otherwise
    assert (nearest < 1e-3).float().mean() >= (0.95 if nms else 1)


def test_the_command_asks_for_the_model_and_stores_weights_in_8_bits(vit, tmp_path, capsys):
    path = tmp_path / 'encoder.pth'
    torch.save(vit.state_dict(), path)
    with pytest.raises(SystemExit, match='what model it is of.*--encoder'):
        main(['export', str(path), '--to', 'torch_export'])
    options = ['--encoder', 'vit_tiny_rvsa', '--size', str(SIDE), str(SIDE), '--int8']
    main(['export', str(path), '--to', 'torch_export', *options])
    assert 'free axes: batch' in capsys.readouterr().out
    written = tmp_path / 'encoder_torch_export' / 'model.pt2'
    assert written.stat().st_size < 0.8 * path.stat().st_size
    batch = images(3, 3, SIDE, SIDE)
    found = torch.export.load(written).module()(batch)
    with torch.no_grad():
        expected = vit(batch)
    for actual, right in zip(found, expected, strict=True):
        difference = (actual - right).abs().max() / (right.max() - right.min())
        assert 1e-5 < difference < 0.03
