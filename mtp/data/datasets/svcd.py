"""CDD, also called SVCD: changes of any kind, across seasons."""

from functools import partial
from pathlib import Path

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.prepare.base import Report, folder
from mtp.data.prepare.change_detection import cut_scenes, find_scenes
from mtp.data.synthetic.change_pairs import make_splits

SUBSET = 'ChangeDetectionDataset/Real/subset'
FOLDERS = ('A', 'B', 'OUT')


def prepare(src: Path, dst: Path) -> Report:
    """Write ``{train,val,test}/{A,B,label}/*.png``; grey values from 128 on mean changed."""
    report = Report()
    root = folder(src, SUBSET, 'Real/subset', '.')
    return cut_scenes(find_scenes(root, report, FOLDERS), dst, 256, report)


synthesise = partial(make_splits, SUBSET, FOLDERS, '.jpg', 256, (4, 2, 2))

DATASET = DataSet(
    title='CDD (SVCD)',
    **CHANGE,
    source='M. Lebedev et al., 2018: ChangeDetectionDataset.zip, the subset Real/subset',
    licence='not stated; for research',
    size='16000 pairs of 256 px, 0.03 to 1 m; 10000 / 3000 / 3000',
    layout='ChangeDetectionDataset/Real/subset/{train,val,test}/{A,B,OUT}/*.jpg (or from Real, or '
    'from train on)',
    citation='M. A. Lebedev, Y. V. Vizilter, O. V. Vygolov, V. A. Knyaz, A. Y. Rubis: Change '
    'Detection in Remote Sensing Images Using Conditional Adversarial Networks. ISPRS '
    'Archives XLII-2, 2018',
    splits=pair_splits('train', 'val', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
