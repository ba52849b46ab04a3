"""Masks from boxes, by predictors that stand in for SAM, and by a tiny one with random weights."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import transformers

from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.recognition import recognise
from mtp.data.own.sam_masks import OUTSIDE, SamPredictor, load_sam, share_outside
from mtp.data.run_lengths import decode_mask
from mtp.files import UnusableFileError
from tests.test_own_data import NUMBER, coco, dota, maps

HEIGHT, WIDTH = 300, 200  # of images whose longer side is not SAM's


class Prompts:
    """Predictor that returns its prompts, grown by some pixels."""

    name = 'prompts'

    def __init__(self, grow: int = 0) -> None:
        self.grow, self.boxes = grow, []

    def __call__(self, image, boxes):
        self.boxes.append(boxes)
        rows, columns = (np.arange(side) + 0.5 for side in image.shape[:2])
        x1, y1, x2, y2 = (boxes + np.array([-1, -1, 1, 1]) * self.grow).T[..., None]
        across = (columns >= x1) & (columns < x2)
        down = (rows >= y1) & (rows < y2)
        return down[:, :, None] & across[:, None]


def import_masks(root, predict, **options):
    data = read_data(recognise(root / 'mine'))
    report = import_data(data, root / 'made', Options(train=0.5, predict=predict, **options))
    found = []
    for path in sorted((root / 'made').rglob('*.json')):
        content = json.loads(path.read_text())
        of_image = {image['id']: image for image in content.get('images', ())}
        found += [(of_image[each['image_id']], each) for each in content.get('annotations', ())]
    return report, found


@pytest.mark.parametrize('make', [coco, dota], ids=lambda make: make.__name__)
@pytest.mark.parametrize('tile', [None, 48])
def test_masks_of_prompts_are_the_boxes(make, tile, tmp_path) -> None:
    make(tmp_path / 'mine')
    report, found = import_masks(tmp_path, Prompts(), tile=tile)
    # of each object the left tile holds all, the right one three quarters
    assert report.bad == [] and len(found) == NUMBER * (1 if tile is None else 2)
    for image, each in found:
        left = 16 if '__48__16__' in image['file_name'] else 0
        mask = decode_mask(each['segmentation'], image['height'], image['width'])
        expected = np.zeros_like(mask)
        expected[8:24, max(8 - left, 0) : 40 - left] = 1
        assert (mask == expected).all()


def test_a_rotated_box_prompts_with_the_box_around_it_and_stays_as_drawn(tmp_path) -> None:
    dota(tmp_path / 'mine')
    for path in (tmp_path / 'mine/labelTxt').iterdir():
        path.write_text('20.5 10 30 20 20.5 30 11 20 car 0\n')
    predict = Prompts()
    report, found = import_masks(tmp_path, predict)
    assert [boxes.tolist() for boxes in predict.boxes] == [[[11, 10, 30, 30]]] * NUMBER
    assert {tuple(each['bbox']) for _, each in found} == {(11, 10, 19, 20)}
    lines = {path.read_text() for path in (tmp_path / 'made').rglob('*.txt') if path.stem.isdigit()}
    assert lines == {'20.5 10.0 30.0 20.0 20.5 30.0 11.0 20.0 car 0\n'}


def test_masks_that_leave_their_box_are_left_out_and_counted(tmp_path) -> None:
    coco(tmp_path / 'mine')
    with pytest.raises(ValueError, match=f'no mask is left of .*{NUMBER} {OUTSIDE}'):
        import_masks(tmp_path, Prompts(grow=3))
    box = np.array([10.0, 10, 20, 20])
    mask = np.zeros((64, 64), np.uint8)
    mask[9:21, 9:21] = 1  # a pixel more at each side is the edge's
    assert share_outside(mask, box) == 0
    mask[21:22, 9:21] = 1
    assert share_outside(mask, box) == pytest.approx(12 / (144 + 12))


def test_some_masks_left_out_are_counted(tmp_path) -> None:
    coco(tmp_path / 'mine')

    class Some(Prompts):
        def __call__(self, image, boxes):
            self.grow = 5 if len(self.boxes) == 2 else 0
            return super().__call__(image, boxes)

    report, found = import_masks(tmp_path, Some())
    assert report.left_out[OUTSIDE] == 1 and len(found) == NUMBER - 1


def test_an_import_started_again_keeps_its_masks(tmp_path) -> None:
    coco(tmp_path / 'mine')

    class Interrupted(Prompts):
        def __call__(self, image, boxes):
            if len(self.boxes) == 4:
                raise KeyboardInterrupt
            return super().__call__(image, boxes)

    with pytest.raises(KeyboardInterrupt):
        import_masks(tmp_path, Interrupted())
    predict = Prompts()
    _, found = import_masks(tmp_path, predict)
    assert len(predict.boxes) == NUMBER - 4 and len(found) == NUMBER


def test_maps_have_no_boxes(tmp_path) -> None:
    maps(tmp_path / 'mine')
    with pytest.raises(ValueError, match='no boxes'):
        import_masks(tmp_path, Prompts())


def test_without_transformers_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'transformers', None)
    with pytest.raises(UnusableFileError, match=r"pip install 'mtp\[sam\]'"):
        load_sam('facebook/sam-vit-base')


class PromptModel:
    """Model that returns its prompts: at SAM's size, a quarter as fine, as distances from a box."""

    device = torch.device('cpu')
    calls: list[int]

    def __init__(self) -> None:
        self.calls = []

    def get_image_embeddings(self, pixels):
        assert pixels.shape == (1, 3, 1024, 1024)
        return pixels[:, :1, :64, :64]

    def __call__(self, image_embeddings, input_boxes, multimask_output):
        assert not multimask_output and input_boxes.dtype == torch.float32
        self.calls.append(input_boxes.shape[1])
        x1, y1, x2, y2 = input_boxes[0].T[..., None]
        place = (torch.arange(256) + 0.5) * 4
        across, down = torch.minimum(place - x1, x2 - place), torch.minimum(place - y1, y2 - place)
        logits = torch.minimum(down[:, :, None], across[:, None])
        return SimpleNamespace(pred_masks=logits[None, :, None])


def test_prompts_come_back_through_sams_own_scales() -> None:
    processor = transformers.SamProcessor(transformers.SamImageProcessor())
    generator = np.random.default_rng(0)
    for height, width in ((HEIGHT, WIDTH), (700, 1500)):
        low = generator.integers(0, min(height, width) - 40, (70, 2))
        boxes = np.concatenate([low, low + generator.integers(12, 40, (70, 2))], 1).astype(float)
        model = PromptModel()
        image = np.zeros((height, width, 3), np.uint8)
        masks = SamPredictor(model, processor, 'fake')(image, boxes)
        assert masks.shape == (70, height, width) and sum(model.calls) == 70 < 70 * len(model.calls)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
            expected = np.zeros((height, width), np.uint8)
            expected[y1:y2, x1:x2] = 1
            kernel = np.ones((3, 3), np.uint8)
            assert not (mask & (cv2.dilate(expected, kernel) == 0)).any()
            # a quarter of SAM's pixels rounds corners
            missed = ~mask & (cv2.erode(expected, kernel, borderValue=1) == 1)
            assert missed.sum() <= 4


def test_a_tiny_sam_runs_through_the_true_code(tmp_path) -> None:
    small = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, image_size=64)
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config=dict(
            small,
            patch_size=16,
            output_channels=16,
            global_attn_indexes=[0],
            mlp_dim=32,
            num_pos_feats=8,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=16),
        mask_decoder_config=dict(
            hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    transformers.SamModel(config).save_pretrained(tmp_path / 'sam')
    transformers.SamImageProcessor(
        size=dict(longest_edge=64),
        pad_size=dict(height=64, width=64),
        mask_size=dict(longest_edge=16),
        mask_pad_size=dict(height=16, width=16),
    ).save_pretrained(tmp_path / 'sam')
    predict = load_sam(str(tmp_path / 'sam'))
    boxes = np.array([[8.0, 8, 40, 24], [50, 100, 90, 130]])
    masks = predict(np.full((150, 100, 3), 90, np.uint8), boxes)
    assert masks.shape == (2, 150, 100) and masks.dtype == bool
    again = predict(np.full((150, 100, 3), 90, np.uint8), boxes[1:])
    assert (again[0] == masks[1]).mean() > 0.99  # a box's mask does not depend on the others
    with pytest.raises(UnusableFileError, match='--sam .*config.json'):
        (tmp_path / 'sam/model.safetensors').unlink()
        load_sam(str(tmp_path / 'sam'))
