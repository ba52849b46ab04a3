"""DIOR-R: the images of DIOR with rotated boxes."""

from collections import Counter
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from mtp.data.class_names import ClassNames
from mtp.data.datasets import dior
from mtp.data.datasets.base import DataSet, Split
from mtp.data.decoding import read_size
from mtp.data.formats import usable
from mtp.data.formats.object_xml import read_dior_r, read_objects
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import copy_image
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.tally import Tally
from mtp.files import whole, write_text


def prepare(src: Path, dst: Path) -> Report:
    """Copy to ``JPEGImages-{trainval,test}``, ``Annotations``, ``ImageSets``, unchanged.

    Boxes without area or outside of their image are left out. Images that cannot be used are left
    out, of the lists too.
    """
    report = Report()
    annotations = folder(src, 'Annotations/Oriented Bounding Boxes', 'Oriented Bounding Boxes')
    images = dior.find_images(src, report)
    for split in DATASET.splits:
        items = [
            (image, annotations / f'{image.stem}.xml', dst / split.images, dst / split.labels)
            for image in images[split.name]
        ]
        stems = []
        for stem, count in process(_copy, items, f'{split.name} images', report):
            stems.append(stem)
            made = f'{split.name} objects'
            report.made[made] = report.made.get(made, 0) + count.pop('objects')
            report.left_out += count
        write_text(dst / split.listed, ''.join(f'{stem}\n' for stem in stems))
    return report


def _copy(item: tuple[Path, Path, Path, Path]) -> tuple[str, Counter]:
    image, annotations, images_dst, annotations_dst = item
    size, tally = read_size(image), Tally()
    names = ClassNames(DATASET.classes, tally)
    boxes = usable(read_dior_r(annotations, size), names, size, True, tally)
    copy_image((image, images_dst / f'{image.stem}.jpg'))
    target = annotations_dst / annotations.name
    if not target.is_file():
        root, objects = read_objects(annotations)
        used = {box.place for box, _ in boxes}
        for place, element in objects:
            if place not in used:
                root.remove(element)
        with whole(target) as unfinished:
            ElementTree.ElementTree(root).write(unfinished, encoding='utf-8', xml_declaration=True)
    return image.stem, Counter(objects=len(boxes)) + tally.counts()


synthesise = partial(dior.synthesise, oriented=True)

DATASET = DataSet(
    title='DIOR-R',
    task='rotated_detection',
    classes=SUBSETS['sior'].classes,
    source='G. Cheng et al., Northwestern Polytechnical University: DIOR-R, images and lists as '
    'DIOR, the archive of oriented annotations',
    licence='not stated; for research',
    size='23463 images of 800 px, 0.5 to 30 m; 5862 / 5863 / 11738, trains on the first two',
    layout='JPEGImages-{trainval,test}/*.jpg, Annotations/"Oriented Bounding Boxes"/*.xml, '
    'ImageSets/Main/{train,val,test}.txt (or Main/)',
    citation='G. Cheng, J. Wang, K. Li, X. Xie, C. Lang, Y. Yao, J. Han: Anchor-Free Oriented '
    'Proposal Generator for Object Detection. IEEE TGRS 60, 2022',
    splits=tuple(
        Split(
            split,
            f'JPEGImages-{images}',
            'Annotations/Oriented Bounding Boxes',
            listed=f'ImageSets/Main/{split}.txt',
            suffixes=('.jpg', '.xml'),
        )
        for split, images in (('train', 'trainval'), ('val', 'trainval'), ('test', 'test'))
    ),
    prepare=prepare,
    synthesise=synthesise,
)
