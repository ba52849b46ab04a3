"""A few hand-made images in the layout of SAMRS; each object has a colour of its own."""

import json

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.samrs.subsets import SUBSETS

CLASSES = ('plane', 'ship', 'harbor')
COLOURS = [(60, 200, 20), (200, 40, 90), (30, 90, 230), (220, 210, 40)]
# class, (cx, cy, w, h) in pixels, degrees clockwise
OBJECTS = [
    ('ship', (30, 28, 40, 12), 25),
    ('plane', (90, 40, 30, 22), -50),
    ('ship', (45, 90, 14, 50), 10),
    ('harbor', (95, 98, 34, 18), 80),
]


def make_subset(
    root,
    subset='sota',
    sizes=((128, 128), (128, 128), (96, 120)),
    classes=CLASSES,
    objects=OBJECTS,
    split='train',
):
    """Write images, semantic maps, json and rotated boxes below ``root``."""
    facts = SUBSETS[subset]
    for folder in (facts.images, facts.semantic, facts.rotated):
        (root / folder).mkdir(parents=True, exist_ok=True)
    coco = dict(
        images=[],
        annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate(classes)],
    )
    for number, (height, width) in enumerate(sizes):
        stem = f'{split}_{number}'
        image = np.full((height, width, 3), 128, np.uint8)
        semantic = np.full((height, width), 255, np.uint8)
        lines = []
        for (name, box, degrees), colour in zip(objects, COLOURS):
            corners = cv2.boxPoints((box[:2], box[2:], degrees))
            mask = np.zeros((height, width), np.uint8)
            cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
            image[mask > 0] = colour
            semantic[mask > 0] = classes.index(name)
            rle = coco_mask.encode(np.asfortranarray(mask))
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']),
                    image_id=number,
                    category_id=classes.index(name),
                    iscrowd=0,
                    bbox=coco_mask.toBbox(rle).tolist(),
                    area=float(coco_mask.area(rle)),
                    segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                )
            )
            lines.append((corners.reshape(-1).tolist(), name))
        coco['images'].append(dict(id=number, file_name=f'{stem}.png', height=height, width=width))
        cv2.imwrite(str(root / facts.images / f'{stem}.png'), image)
        cv2.imwrite(str(root / facts.semantic / f'{stem}.png'), semantic)
        path = root / facts.rotated / (stem + facts.rotated_suffix)
        path.write_text(as_xml(lines) if path.suffix == '.xml' else as_dota(lines))
    with open(root / facts.instances.format(split=split), 'w') as file:
        json.dump(coco, file)
    return root


def as_dota(lines):
    return 'imagesource:GoogleEarth\ngsd:0.5\n' + ''.join(
        f'{" ".join(f"{value:.2f}" for value in corners)} {name} 0\n' for corners, name in lines
    )


def as_xml(lines):
    tags = [
        f'{axis}_{place}'
        for place in ('left_top', 'right_top', 'right_bottom', 'left_bottom')
        for axis in 'xy'
    ]
    objects = ''.join(
        f'<object><name>{name.upper()}</name><robndbox>'
        + ''.join(f'<{tag}>{value:.2f}</{tag}>' for tag, value in zip(tags, corners))
        + '</robndbox></object>'
        for corners, name in lines
    )
    return f'<annotation>{objects}</annotation>'
