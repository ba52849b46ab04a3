"""GVLM: landslides at 17 sites."""

from pathlib import Path

import numpy as np

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.prepare.base import Report, folder
from mtp.data.prepare.change_detection import THREE_FIFTHS, cut_scenes, pair
from mtp.data.prepare.images import images_in
from mtp.data.synthetic.change_pairs import draw_pair
from mtp.data.synthetic.drawing import write_image

FILES = ('im1', 'im2', 'ref')


def prepare(src: Path, dst: Path) -> Report:
    """Cut tiles of 256 pixels, divided at random: ``{train,val,test}/{A,B,label}/*.png``."""
    report = Report()
    scenes = []
    for where in sorted(path for path in folder(src, 'GVLM_CD', '.').iterdir() if path.is_dir()):
        files = images_in(where, report)
        scenes.append(pair(where.name.replace(' ', '_'), *map(files.get, FILES)))
    if not scenes:
        raise FileNotFoundError(f'{src} has no folder of a site: unpack GVLM_CD there')
    return cut_scenes(scenes, dst, 256, report, THREE_FIFTHS)


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write three sites of 300 to 520 pixels (original: 17, of thousands of pixels)."""
    root, rng = Path(root), np.random.default_rng(seed)
    for site, size in (('A Luoi_Vietnam', 520), ('Asakura_Japan', 300), ('Askja_Iceland', 400)):
        for name, part in zip(FILES, draw_pair(rng, size, 10)):
            pixels = part * np.uint8(255) if name == 'ref' else part
            write_image(root / 'GVLM_CD' / site / f'{name}.png', pixels)
    return root


DATASET = DataSet(
    title='GVLM',
    **CHANGE,
    source='X. Zhang et al., Global Very-high-resolution Landslide Mapping: GVLM_CD on GitHub',
    licence='non-commercial research only',
    size='17 pairs of 1748 to 10808 px, 0.59 m; tiles of 256, divided 60:20:20 at random, by a '
    'fixed seed (no division has been published)',
    layout='GVLM_CD/<site>/{im1,im2,ref}.png (or the folders of the sites themselves)',
    citation='X. Zhang, W. Yu, M.-O. Pun, W. Shi: Cross-domain landslide mapping from large-scale '
    'remote sensing images using prototype-guided domain-aware progressive '
    'representation learning. ISPRS Journal of Photogrammetry and Remote Sensing 197, '
    '2023',
    splits=pair_splits('train', 'val', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
