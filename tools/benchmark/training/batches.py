"""Synthetic training samples in memory, of a set size and number of objects."""

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures import RotatedBoxes


def make_samples(
    num_classes: dict[str, int],
    images: int,
    objects: int,
    size: int,
    seed: int = 0,
    distort: bool = True,
) -> list[dict[str, Any]]:
    """Return samples as the training pipelines give them: whole crops, data set by data set.

    Args:
        num_classes: data set -> number of classes.
        images: number of images per data set.
        objects: number of objects per image: rectangles at random angles, with sides of 2 to 25 %
            of the image's side.
        size: side of the images, pixels.
        seed: seed of everything.
        distort: whether to ask for the photometric distortion, which is done on the device.
    """
    rng = np.random.default_rng(seed)
    return [
        _sample(rng, name, classes, objects, size, distort)
        for name, classes in num_classes.items()
        for _ in range(images)
    ]


def _sample(
    rng: np.random.Generator, name: str, classes: int, objects: int, size: int, distort: bool
) -> dict[str, Any]:
    image = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(classes, size=objects))
    boxes = np.concatenate(
        [
            rng.uniform(0.1, 0.9, (objects, 2)) * size,
            rng.uniform(0.02, 0.25, (objects, 2)) * size,
            rng.uniform(-np.pi / 2, np.pi / 2, (objects, 1)),
        ],
        1,
    )
    boxes[:, 2:4] = np.maximum(boxes[:, 2:4], 4)
    masks = np.zeros((objects, size, size), np.uint8)
    semantic = np.zeros((size, size), np.uint8)
    for mask, (x, y, width, height, angle), label in zip(masks, boxes, labels):
        corners = cv2.boxPoints(((x, y), (width, height), np.degrees(angle)))
        cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 1)
        semantic[mask > 0] = label + 1
    masks = BitmapMasks(masks, size, size)
    shape = (size, size)
    sample = DetDataSample(
        metainfo=dict(
            dataset=name,
            img_path=f'{name}.png',
            ori_shape=shape,
            img_shape=shape,
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            sample_seed=int(rng.integers(2**62)),
        )
    )
    if distort:  # brightness, contrast, saturation, hue
        sample.set_metainfo(dict(distortion=(10.0, float('nan'), 1.2, 5.0, 0.9)))
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic)[None])
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(masks.get_bboxes('hbox').tensor), labels=labels, masks=masks
    )
    sample.gt_rotated_instances = InstanceData(
        bboxes=RotatedBoxes(boxes.astype(np.float32)), labels=labels
    )
    return dict(inputs=torch.from_numpy(image), data_samples=sample)
