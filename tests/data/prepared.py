"""Detection sets as they are after preparation, of the images of ``small.py``."""

import json
from pathlib import Path

from mtp.data import SUBSETS
from mtp.data.datasets import DATASETS
from tests.data.small import make_subset

SIZES = {'trainval': ((128, 128), (128, 128), (112, 120)), 'test': ((128, 128),)}


def make_dota(root: Path) -> Path:
    """DOTA-V1.0: three training images with labels, one test image without."""
    for split, sizes in SIZES.items():
        made = make_subset(root / 'made', sizes=sizes, split=split)
        (root / split).mkdir()
        (made / 'trainval/images').rename(root / split / 'images')
    (root / 'made/trainval/rbbtxts').rename(root / 'trainval/annfiles')
    for path in (root / 'trainval/annfiles').iterdir():
        if path.stem.startswith('test'):
            path.unlink()
        else:  # tiles have no lines on their source
            path.write_text(''.join(path.read_text().splitlines(keepends=True)[2:]))
    return root


def make_dior(root: Path) -> Path:
    """DIOR: three training images, one test image; their classes are those of ``small.py``."""
    classes = DATASETS['dior'].classes
    for split, sizes in SIZES.items():
        made = make_subset(
            root / 'made' / split,
            sizes=sizes,
            split=split,
            objects=[('ship', (30, 28, 40, 12), 25), ('ship', (90, 40, 30, 22), 0)],
        )
        (made / 'trainval/images').rename(root / f'JPEGImages-{split}')
        coco = json.loads((made / SUBSETS['sota'].instances.format(split=split)).read_text())
        coco['categories'] = [dict(id=i, name=name) for i, name in enumerate(classes)]
        for annotation in coco['annotations']:
            annotation['category_id'] = classes.index('ship')
            del annotation['segmentation']
        (root / f'DIOR_{split}_coco.json').write_text(json.dumps(coco))
    return root


def make_dior_r(root: Path) -> Path:
    """DIOR-R: two training images, one for validation, one test image."""
    (root / 'ImageSets/Main').mkdir(parents=True)
    objects = [('ship', (30, 28, 40, 12), 25), ('harbor', (90, 40, 30, 22), -50)]
    for split, sizes in SIZES.items():
        made = make_subset(root, 'sior', sizes, objects=objects, split=split)
        images = [
            path.rename(path.with_suffix('.jpg'))
            for path in sorted((made / SUBSETS['sior'].images).glob('*.png'))
        ]
        if split == 'test':
            (root / 'JPEGImages-test').mkdir()
            images = [
                path.rename(root / 'JPEGImages-test' / path.name)
                for path in images
                if path.name.startswith('test')
            ]
        for part, paths in (
            {'train': images[:2], 'val': images[2:]} if split == 'trainval' else {'test': images}
        ).items():
            (root / f'ImageSets/Main/{part}.txt').write_text(
                ''.join(f'{path.stem}\n' for path in paths)
            )
    return root
