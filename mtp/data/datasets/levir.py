"""LEVIR-CD: building changes in Texas."""

from functools import partial
from pathlib import Path

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.prepare.base import Report
from mtp.data.prepare.change_detection import FOLDERS, cut_scenes, find_scenes
from mtp.data.synthetic.change_pairs import make_splits


def prepare(src: Path, dst: Path) -> Report:
    """Cut tiles of 256 pixels: ``{train,val,test}/{A,B,label}/*.png``."""
    report = Report()
    return cut_scenes(find_scenes(src, report), dst, 256, report)


synthesise = partial(make_splits, '', FOLDERS, '.png', 512, (2, 1, 1))

DATASET = DataSet(
    title='LEVIR-CD',
    **CHANGE,
    source='H. Chen and Z. Shi, LEVIR lab, Beihang University: train.zip, val.zip, test.zip',
    licence='academic use only',
    size='637 pairs of 1024 px, 0.5 m; 445 / 64 / 128, tiles of 256: 7120 / 1024 / 2048',
    layout='{train,val,test}/{A,B,label}/*.png',
    citation='H. Chen, Z. Shi: A Spatial-Temporal Attention-Based Method and a New Dataset for '
    'Remote Sensing Image Change Detection. Remote Sensing 12, 2020',
    splits=pair_splits('train', 'val', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
