"""EGY-BCD: building changes in Egypt."""

from functools import partial
from pathlib import Path

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.prepare.base import Report
from mtp.data.prepare.change_detection import FOLDERS, THREE_FIFTHS, cut_scenes, find_scenes
from mtp.data.synthetic.change_pairs import make_splits


def prepare(src: Path, dst: Path) -> Report:
    """Write ``{train,val,test}/{A,B,label}/*.png``."""
    report = Report()
    return cut_scenes(find_scenes(src, report, divide=True), dst, 256, report, THREE_FIFTHS)


synthesise = partial(make_splits, '', FOLDERS, '.png', 256, (4, 2, 2))

DATASET = DataSet(
    title='EGY-BCD',
    **CHANGE,
    source='S. Holail et al., Egypt building change detection: EGY-BCD on GitHub',
    licence='not stated; for research',
    size='6091 pairs of 256 px, 0.25 m; if there are no folders or lists of the splits, divided '
    '60:20:20 by a fixed seed',
    layout='{train,val,test}/{A,B,label}/*.png, or {A,B,label}/*.png with or without '
    'list/{train,val,test}.txt',
    citation='S. Holail, T. Saleh, X. Xiao, D. Li: AFDE-Net: Building Change Detection Using '
    'Attention-Based Feature Differential Enhancement for Satellite Imagery. IEEE '
    'Geoscience and Remote Sensing Letters 20, 2023',
    splits=pair_splits('train', 'val', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
