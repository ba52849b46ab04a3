"""WHU building change: one pair of aerial images of Christchurch, 2012 and 2016."""

from pathlib import Path

import numpy as np

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.prepare.base import Report, folder
from mtp.data.prepare.change_detection import cut_scenes, pair
from mtp.data.synthetic.change_pairs import draw_pair
from mtp.data.synthetic.drawing import write_image

# 7:1:2 of the 7620 tiles gives the 5334 and 1524 that the published runs used.
SHARES = dict(train=0.7, val=0.1, test=0.2)


def prepare(src: Path, dst: Path) -> Report:
    """Cut tiles of 256 pixels, divided at random: ``{train,val,test}/{A,B,label}/*.png``."""
    report = Report()
    root = folder(
        src,
        'Building change detection dataset_add/1. The two-period image data',
        '1. The two-period image data',
        '.',
    )
    if (root / 'before').is_dir():
        found = [
            (
                'whu',
                [
                    root / 'before/before.tif',
                    root / 'after/after.tif',
                    root / 'change label/change_label.tif',
                ],
            )
        ]
    else:
        folder(root, 'before', '2012/whole_image')
        found = [
            (
                f'whu_{region}',
                [
                    root / f'2012/whole_image/{region}/image/2012_{region}.tif',
                    root / f'2016/whole_image/{region}/image/2016_{region}.tif',
                    root / f'change_label/{region}/change_label.tif',
                ],
            )
            for region in ('train', 'test')
        ]
    scenes = [
        pair(name, *(path if path.is_file() else None for path in files)) for name, files in found
    ]
    return cut_scenes(scenes, dst, 256, report, SHARES)


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write one pair of 700 x 800 pixels (original: 15354 x 32507) with labels 0 and 1."""
    root = Path(root)
    *dates, changed = (part[:700] for part in draw_pair(np.random.default_rng(seed), 800, 24))
    for name, image in zip(('before', 'after'), dates):
        write_image(root / name / f'{name}.tif', image)
    write_image(root / 'change label' / 'change_label.tif', changed)
    return root


DATASET = DataSet(
    title='WHU building change',
    **CHANGE,
    source='S. Ji et al., GPCV group, Wuhan University: Building change detection dataset',
    licence='not stated; for research',
    size='1 pair of 32507 x 15354 px, 0.2 m; 7620 tiles of 256, divided 5334 / 762 / 1524 by a '
    'fixed seed (the division of the published runs is not published)',
    layout='before/before.tif, after/after.tif, "change label"/change_label.tif; or in '
    '"1. The two-period image data": {2012,2016}/whole_image/{train,test}/image/*.tif, '
    'change_label/{train,test}/change_label.tif',
    citation='S. Ji, S. Wei, M. Lu: Fully Convolutional Networks for Multisource Building '
    'Extraction From an Open Aerial and Satellite Imagery Data Set. IEEE TGRS 57, 2019',
    splits=pair_splits('train', 'val', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
