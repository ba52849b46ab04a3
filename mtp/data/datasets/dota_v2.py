"""DOTA-V2.0: eighteen classes of objects, rotated boxes."""

from functools import partial
from pathlib import Path

from mtp.data.datasets import dota_v1
from mtp.data.datasets.base import TILES, DataSet
from mtp.data.prepare.base import Report
from mtp.data.prepare.rotated_detection import prepare_dota


def prepare(src: Path, dst: Path, multi_scale: bool = False) -> Report:
    """Cut 1024-pixel tiles: ``trainval/{images/*.png,annfiles/*.txt}``, ``test/images/*.png``."""
    return prepare_dota(
        DATASET.classes, ('labelTxt-v2.0', 'labelTxt'), ('test-dev', 'test'), src, dst, multi_scale
    )


synthesise = partial(dota_v1.synthesise_version, 'labelTxt-v2.0', 'test-dev')

DATASET = DataSet(
    title='DOTA-V2.0',
    task='rotated_detection',
    classes=(*dota_v1.DATASET.classes, 'container-crane', 'airport', 'helipad'),
    source='J. Ding et al., Wuhan University: DOTA-v2.0 (and the images of v1.0, which it adds to) '
    'on the DOTA site, train, val and test-dev',
    licence=dota_v1.DATASET.licence,
    size='5215 images of 800 to 20000 px (some 29200); 1830 / 593 / 2792 (test-dev), trains on the '
    'first two; tiles of 1024',
    layout='{train,val}/{images/*.png,labelTxt/*.txt} (or labelTxt-v2.0), test-dev/images (or '
    'test/images)',
    citation='J. Ding et al.: Object Detection in Aerial Images: A Large-Scale Benchmark and '
    'Challenges. IEEE TPAMI 44, 2022',
    splits=TILES,
    multi_scale=True,
    prepare=prepare,
    synthesise=synthesise,
)
