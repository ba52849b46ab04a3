"""DIOR: twenty classes of objects, horizontal boxes."""

from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mtp.data.class_names import ClassNames
from mtp.data.datasets.base import DataSet, Split
from mtp.data.decoding import read_size
from mtp.data.formats import usable
from mtp.data.formats.object_xml import CORNER_TAGS, SIDES, read_voc
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.coco_files import Entry, coco_box, coco_image, write_coco
from mtp.data.prepare.images import by_lists, copy_image, images_in
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.samrs.synthesis import CLASSES
from mtp.data.synthetic.drawing import Drawn, draw, nest, write_image
from mtp.data.tally import Tally
from mtp.files import write_text


def prepare(src: Path, dst: Path) -> Report:
    """Copy to ``JPEGImages-{trainval,test}/*.jpg``; write ``DIOR_{trainval,test}_coco.json``.

    Class names are changed to lower case. Boxes without area or outside of their image are left
    out.
    """
    report = Report()
    annotations = folder(src, 'Annotations/Horizontal Bounding Boxes', 'Horizontal Bounding Boxes')
    lists = find_images(src, report)
    found = {'trainval': lists['train'] + lists['val'], 'test': lists['test']}
    for split in DATASET.splits:
        items = [
            (image, annotations / f'{image.stem}.xml', dst / split.images)
            for image in found[split.name]
        ]
        results = process(_convert, items, f'{split.name} images', report)
        write_coco(
            dst / split.labels, [entry for entry, _ in results], DATASET.classes, split.name, report
        )
        for _, count in results:
            report.left_out += count
    return report


def find_images(src: Path, report: Report) -> dict[str, list[Path]]:
    """Find the images in the lists of DIOR and DIOR-R: split -> images.

    Raises:
        FileNotFoundError: a folder or a list is missing.
    """
    images: dict[str, Path] = {}
    for name in ('JPEGImages-trainval', 'JPEGImages-test'):
        for stem, path in images_in(folder(src, name), report).items():
            if stem in images:
                report.bad.append(f'{path}: {images[stem]} has the same name')
            else:
                images[stem] = path
    main = folder(src, 'ImageSets/Main', 'Main')
    lists = {split: main / f'{split}.txt' for split in ('train', 'val', 'test')}
    for path in lists.values():
        if not path.is_file():
            raise FileNotFoundError(f'no list {path}: unpack the archive of image sets')
    splits: dict[str, list[Path]] = {split: [] for split in lists}
    for stem, split in by_lists(lists, images, report).items():
        splits[split].append(images[stem])
    return splits


def _convert(item: tuple[Path, Path, Path]) -> tuple[Entry, Counter]:
    """Copy an image; return its COCO entry, and the counts of its boxes that are left out."""
    image, annotations, dst = item
    size, tally = read_size(image), Tally()
    names = ClassNames(DATASET.classes, tally)
    boxes = [
        coco_box(label, *box.corners[0], *box.corners[2])
        for box, label in usable(read_voc(annotations, size), names, size, False, tally)
    ]
    target = copy_image((image, dst / image.name))
    return coco_image(target.name, size, boxes), tally.counts()


def synthesise(
    root: str | Path,
    num_trainval: int = 8,
    num_test: int = 4,
    image_size: int = 256,
    seed: int = 0,
    oriented: bool = False,
) -> Path:
    """Write DIOR or DIOR-R (original: 23463 images of 800); half of ``trainval`` is ``train``."""
    root, rng = Path(root), np.random.default_rng(seed)
    # in the publisher's xml, the names of two classes have capitals
    shapes = {**CLASSES['sior'], 'Expressway-toll-station': 'tank'}
    stems = defaultdict(list)
    for number in range(num_trainval + num_test):
        trainval = number < num_trainval
        stem = f'{number + 1:05d}'
        stems[('train' if number % 2 == 0 else 'val') if trainval else 'test'].append(stem)
        image, drawn = draw(
            rng, image_size, shapes, int(rng.integers(2, 6)), (0.15 * image_size, 0.35 * image_size)
        )
        write_image(
            root / f'JPEGImages-{"trainval" if trainval else "test"}' / f'{stem}.jpg', image
        )
        kind = 'Oriented' if oriented else 'Horizontal'
        write_text(
            root / 'Annotations' / f'{kind} Bounding Boxes' / f'{stem}.xml',
            _voc(f'{stem}.jpg', image_size, drawn, oriented),
        )
    for split, names in stems.items():
        write_text(root / 'ImageSets' / 'Main' / f'{split}.txt', '\n'.join(names) + '\n')
    return root


def _voc(name: str, size: int, drawn: Drawn[str], oriented: bool) -> str:
    root = ElementTree.Element('annotation')
    nest(
        root, filename=name, size=dict(width=str(size), height=str(size), depth='3'), segmented='0'
    )
    for label, corners in drawn:
        tags, values = (
            (CORNER_TAGS, corners.reshape(-1))
            if oriented
            else (SIDES, (*corners.min(0), *corners.max(0)))
        )
        box = dict(zip(tags, (str(round(value)) for value in values)))
        element = ElementTree.SubElement(root, 'object')
        nest(element, name=label, difficult='0', **{'robndbox' if oriented else 'bndbox': box})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding='unicode')


DATASET = DataSet(
    title='DIOR',
    task='horizontal_detection',
    classes=SUBSETS['sior'].classes,
    source='K. Li et al., Northwestern Polytechnical University: DIOR, the archives of images '
    '(trainval, test), annotations and image sets',
    licence='not stated; for research',
    size='23463 images of 800 px, 0.5 to 30 m; 11725 / 11738',
    layout='JPEGImages-{trainval,test}/*.jpg, Annotations/"Horizontal Bounding Boxes"/*.xml, '
    'ImageSets/Main/{train,val,test}.txt (or Main/)',
    citation='K. Li, G. Wan, G. Cheng, L. Meng, J. Han: Object detection in optical remote sensing '
    'images: A survey and a new benchmark. ISPRS Journal of Photogrammetry and Remote '
    'Sensing 159, 2020',
    splits=tuple(
        Split(split, f'JPEGImages-{split}', f'DIOR_{split}_coco.json')
        for split in ('trainval', 'test')
    ),
    prepare=prepare,
    synthesise=synthesise,
)
