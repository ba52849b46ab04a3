"""LoveDA: land cover of urban and rural areas."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from mtp.data.datasets.base import DataSet, Split
from mtp.data.decoding import read_stored
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import copy_image, images_in, read_rgb
from mtp.data.synthetic.drawing import write_image
from mtp.data.synthetic.shapes import make_ground
from mtp.files import whole


def prepare(src: Path, dst: Path) -> Report:
    """Copy to ``trainval/{images,labels}/*.png`` and ``test/images/*.png``.

    Label files keep their values: 0 is not labelled, 1 to 7 are the classes. The reader subtracts
    one (``reduce_zero_label`` of mmseg).
    """
    report = Report()
    for split in ('Train', 'Val', 'Test'):
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        for area in ('Urban', 'Rural'):
            where = folder(folder(src, split), area)
            images |= images_in(folder(where, 'images_png'), report)
            if split != 'Test':
                masks |= images_in(folder(where, 'masks_png'), report)
        if split == 'Test':
            items = [(path, dst / 'test' / 'images' / path.name) for path in images.values()]
            process(copy_image, items, 'test images', report)
            continue
        report.bad += [
            f'{masks[name]}: a label without an image' for name in sorted(set(masks) - set(images))
        ]
        labelled = [(path, masks.get(name), dst / 'trainval') for name, path in images.items()]
        copy = partial(_copy_labelled, len(DATASET.classes))
        process(copy, labelled, f'{split.lower()} images', report)
    return report


def _copy_labelled(num_classes: int, item: tuple[Path, Path | None, Path]) -> None:
    image, mask, target = item
    label_target = target / 'labels' / f'{image.stem}.png'
    if label_target.is_file():
        return
    if mask is None:
        raise ValueError(f'no label of this name in {image.parents[1] / "masks_png"}')
    pixels, labels = read_rgb(image), read_stored(mask)
    if labels.shape != pixels.shape[:2]:
        raise ValueError(f'{mask} has shape {labels.shape}, the image {pixels.shape[:2]}')
    if labels.max() > num_classes:
        raise ValueError(
            f'{mask} holds the value {labels.max()}: known are 0 (not labelled) and '
            f'1 to {num_classes}'
        )
    copy_image((image, target / 'images' / image.name))
    with whole(label_target) as unfinished:
        shutil.copyfile(mask, unfinished)


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write 2, 1 and 1 images of 256 pixels (original: 1024) per area of the splits."""
    root, rng = Path(root), np.random.default_rng(seed)
    palette = np.array(((0, 0, 0), *DATASET.palette), np.float32)[:, ::-1]
    number = 0
    for split, count in (('Train', 2), ('Val', 1), ('Test', 1)):
        for area in ('Urban', 'Rural'):
            for _ in range(count):
                centres = rng.uniform(0, 256, (24, 2))
                values = rng.permutation(np.arange(24) % 8).astype(np.uint8)
                points = np.stack([*np.mgrid[:256, :256]], -1)[:, :, None]
                mask = values[((points - centres) ** 2).sum(-1).argmin(-1)]
                image = 0.6 * palette[mask] + 0.4 * make_ground(rng, 256)
                where = root / split / area
                write_image(where / 'images_png' / f'{number}.png', image)
                if split != 'Test':
                    write_image(where / 'masks_png' / f'{number}.png', mask)
                number += 1
    return root


DATASET = DataSet(
    title='LoveDA',
    task='segmentation',
    classes=('background', 'building', 'road', 'water', 'barren', 'forest', 'agricultural'),
    palette=(
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    ),
    source='J. Wang et al., RSIDEA, Wuhan University: LoveDA on Zenodo, Train.zip, Val.zip, '
    'Test.zip; only the benchmark server has the test labels',
    licence='CC BY-NC-SA 4.0; academic use',
    size='5987 images of 1024 px, 0.3 m; 2522 / 1669 / 1796; trains on the first two',
    layout='{Train,Val}/{Urban,Rural}/{images_png,masks_png}/*.png, '
    'Test/{Urban,Rural}/images_png/*.png',
    citation='J. Wang, Z. Zheng, A. Ma, X. Lu, Y. Zhong: LoveDA: A Remote Sensing Land-Cover '
    'Dataset for Domain Adaptive Semantic Segmentation. NeurIPS Datasets and Benchmarks, '
    '2021',
    splits=(Split('trainval', 'trainval/images', 'trainval/labels'), Split('test', 'test/images')),
    label_values=tuple(range(8)),
    prepare=prepare,
    synthesise=synthesise,
)
