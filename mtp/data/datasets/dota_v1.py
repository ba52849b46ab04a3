"""DOTA-V1.0: fifteen classes of objects, rotated boxes."""

from functools import partial
from pathlib import Path

import numpy as np

from mtp.data.datasets.base import TILES, DataSet
from mtp.data.prepare.base import Report
from mtp.data.prepare.rotated_detection import prepare_dota
from mtp.data.samrs.synthesis import CLASSES
from mtp.data.synthetic.drawing import draw, write_image
from mtp.files import write_text


def prepare(src: Path, dst: Path, multi_scale: bool = False) -> Report:
    """Cut 1024-pixel tiles: ``trainval/{images/*.png,annfiles/*.txt}``, ``test/images/*.png``."""
    return prepare_dota(
        DATASET.classes, ('labelTxt-v1.0', 'labelTxt'), ('test',), src, dst, multi_scale
    )


def synthesise_version(
    labels: str,
    test: str,
    root: str | Path,
    num_train: int = 3,
    num_val: int = 2,
    num_test: int = 2,
    image_size: int = 1200,
    seed: int = 0,
) -> Path:
    """Write ``train``, ``val`` and ``test`` (original: thousands of images of 800 to 20000 pixels).

    Args:
        labels: name of the label folders.
        test: name of the folder of the test set.
        root: folder to write to.
        num_train: number of training images.
        num_val: number of validation images.
        num_test: number of test images.
        image_size: side of an image in pixels.
        seed: seed of all random choices.

    Returns:
        Path: ``root``.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    number = 0
    for split, count in (('train', num_train), ('val', num_val), (test, num_test)):
        for _ in range(count):
            stem = f'P{number:04d}'
            image, drawn = draw(rng, image_size, CLASSES['sota'], 25, (60, 180))
            write_image(root / split / 'images' / f'{stem}.png', image)
            lines = [
                ' '.join(f'{value:.1f}' for value in corners.reshape(-1))
                + f' {name} {int(i % 5 == 0)}\n'
                for i, (name, corners) in enumerate(drawn)
            ]
            if split != test:
                header = 'imagesource:GoogleEarth\ngsd:0.146343590398\n'
                write_text(root / split / labels / f'{stem}.txt', header + ''.join(lines))
            number += 1
    return root


synthesise = partial(synthesise_version, 'labelTxt', 'test')

DATASET = DataSet(
    title='DOTA-V1.0',
    task='rotated_detection',
    classes=(
        'plane',
        'baseball-diamond',
        'bridge',
        'ground-track-field',
        'small-vehicle',
        'large-vehicle',
        'ship',
        'tennis-court',
        'basketball-court',
        'storage-tank',
        'soccer-ball-field',
        'roundabout',
        'harbor',
        'swimming-pool',
        'helicopter',
    ),
    source='G.-S. Xia et al., Wuhan University: DOTA-v1.0 on the DOTA site, train, val and test',
    licence='academic use only; images of Google Earth, GF-2, JL-1 and CycloMedia',
    size='2806 images of 800 to 4000 px (some 13000); 1411 / 458 / 937, trains on the first two; '
    'tiles of 1024, multi-scale',
    layout='{train,val}/{images/*.png,labelTxt/*.txt} (or labelTxt-v1.0), test/images',
    citation='G.-S. Xia et al.: DOTA: A Large-Scale Dataset for Object Detection in Aerial Images. '
    'CVPR 2018',
    splits=TILES,
    multi_scale=True,
    prepare=prepare,
    synthesise=synthesise,
)
