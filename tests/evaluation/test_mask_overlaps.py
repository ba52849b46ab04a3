"""Run lengths from the box's pixels equal those of the whole mask, byte for byte."""

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from pycocotools import mask as coco_mask

from mtp.evaluation.mask_overlaps import encode_masks

HEIGHT, WIDTH = 60, 84


def assert_equals_whole_masks(masks, boxes):
    runs, areas = encode_masks(masks, np.asarray(boxes, np.float32))
    expected = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    assert runs == expected
    assert areas == [float(coco_mask.area(run)) for run in expected]


@pytest.mark.parametrize('whole_image', [False, True])  # as mmdet pastes on CPU, on CUDA
@pytest.mark.parametrize('certain', [False, True])
def test_predicted_masks(whole_image, certain):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, [WIDTH - 5, HEIGHT - 5], (40, 2))
    boxes = np.column_stack([corners, corners + rng.uniform(1, 60, (40, 2))])
    boxes = boxes.clip(0, [WIDTH, HEIGHT] * 2).astype(np.float32)
    boxes[:8] = boxes[:8].round() + [[0.5], [0]] * 4  # edges on centres of pixels, and between them
    boxes[8] = 0, 0, WIDTH, HEIGHT
    boxes[9] = 10.5, 0, 40.2, HEIGHT
    scores = torch.ones(40, 28, 28) if certain else torch.from_numpy(rng.random((40, 28, 28)))
    masks = np.zeros((40, HEIGHT, WIDTH), bool)
    for mask, box, score in zip(masks, torch.from_numpy(boxes), scores):
        part, place = _do_paste_mask(
            score[None, None], box[None], HEIGHT, WIDTH, skip_empty=not whole_image
        )
        mask[place] = (part[0] >= 0.5).numpy()
    assert masks.any((1, 2)).sum() > 35
    assert_equals_whole_masks(masks, boxes)


def test_full_columns_borders_and_empty_masks():
    masks = np.zeros((8, HEIGHT, WIDTH), np.uint8)
    masks[0] = 1
    masks[1, :, 3:9] = 1
    masks[2, :30, 0] = 1
    masks[3, 30:, -1] = 1
    masks[4, -1:, 5:8] = 1
    masks[5, [0, -1], :] = 1  # columns that end and begin with a pixel
    masks[6, 20, 20] = 1
    everywhere = [0, 0, WIDTH, HEIGHT]
    boxes = [
        everywhere,
        [3, 0, 9, HEIGHT],
        [0, 0, 1, 30],
        [WIDTH - 1, 30, WIDTH, HEIGHT],
        [5, HEIGHT - 1, 8, HEIGHT],
        everywhere,
        [20, 20, 21, 21],
        [0, 0, 0, 0],
    ]
    assert_equals_whole_masks(masks, boxes)
    assert_equals_whole_masks(masks, [everywhere] * 8)
    assert encode_masks(masks[:0], np.zeros((0, 4))) == ([], [])
