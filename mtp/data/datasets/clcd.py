"""CLCD: cropland changes in Guangdong."""

from functools import partial
from pathlib import Path

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.prepare.base import Report
from mtp.data.prepare.change_detection import cut_scenes, find_scenes
from mtp.data.synthetic.change_pairs import make_splits

FOLDERS = ('time1', 'time2', 'label')


def prepare(src: Path, dst: Path) -> Report:
    """Cut tiles of 256 pixels: ``{train,val,test}/{A,B,label}/*.png``."""
    report = Report()
    return cut_scenes(find_scenes(src, report, FOLDERS), dst, 256, report)


synthesise = partial(make_splits, '', FOLDERS, '.png', 512, (1, 1, 1))

DATASET = DataSet(
    title='CLCD',
    **CHANGE,
    source='M. Liu et al., CropLand Change Detection: CLCD.zip of the MSCANet project',
    licence='not stated; for research',
    size='600 pairs of 512 px, 0.5 to 2 m; 360 / 120 / 120, tiles of 256: 1440 / 480 / 480',
    layout='{train,val,test}/{time1,time2,label}/*.png',
    citation='M. Liu, Z. Chai, H. Deng, R. Liu: A CNN-Transformer Network With Multiscale Context '
    'Aggregation for Fine-Grained Cropland Change Detection. IEEE JSTARS 15, 2022',
    splits=pair_splits('train', 'val', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
