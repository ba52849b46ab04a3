"""``mtp export --to onnx`` and ``torch_export``: trained models give the same without mtp."""

import copy

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mtp.cli.main import main
from mtp.export.graphs import MOST_BOXES, TOLERANCE, onnx_difference, portable, trace, write_onnx
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
    images = torch.randn(2, form.bands, side, side)
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
        session = onnxruntime.InferenceSession(tmp_path / 'b.onnx')
        found, right = (
            torch.cat([boxes, scores[:, None], side * labels[:, None]], 1)
            for boxes, scores, labels in (
                map(torch.as_tensor, session.run(None, {'images': one.numpy()})),
                with_nms.module(one),
            )
        )
        assert 0 < len(right) < MOST_BOXES
        # equal up to the order of nearly equal scores, and what this order changes
        assert abs(len(found) - len(right)) <= 0.02 * len(right)
        nearest = torch.cdist(found, right, p=torch.inf).amin(1)
        assert (nearest < TOLERANCE * side).float().mean() > 0.98


@pytest.mark.parametrize('dataset', ['dior', 'dior_r'])
def test_two_stage_detectors_say_why_they_are_not_exported(dataset):
    with torch.device('meta'), pytest.raises(ValueError, match='RCNN is not exported: its second'):
        portable(finetuned(dataset))


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
