"""Make three small real data sets to try finetuning on, from samples of AID, OSCD and UCAS-AOD.

    python tools/data/real_samples.py SAMPLES data/real

SAMPLES has ``aid_150px/<class>/*.jpg``, ``oscd/`` (the publisher's folders), and
``ucas_aod/images`` with ``ucas_aod/labels`` (lines: class, four corners as shares of width and
height). Two thirds of AID, three quarters of UCAS-AOD and seven cities of OSCD are for
training. The configs of ``configs/finetune/tiny`` read the result.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.data.datasets.oscd import prepare as prepare_oscd
from mtp.data.decoding import read_size
from mtp.data.formats.dota_text import read_dota
from mtp.data.formats.yolo_text import name_classes, read_yolo_obb
from mtp.data.prepare.base import Report, process
from mtp.data.prepare.images import copy_image, deal, images_in
from mtp.data.prepare.tiling import Tiling, cut
from mtp.files import write_json

OSCD_TEST = ('beihai', 'bordeaux', 'rennes')
UCAS_CLASSES = ('plane', 'car')
UCAS_TILING = Tiling(side=400, overlap=100)


def make_aid(src: Path, dst: Path, report: Report) -> None:
    """Copy AID to ``{train,val}/<class>/*.jpg``."""
    for folder in sorted(path for path in src.iterdir() if path.is_dir()):
        images = images_in(folder, report)
        splits = deal(images, dict(train=2 / 3, val=1 / 3))
        process(
            copy_image,
            [(path, dst / splits[stem] / folder.name / path.name) for stem, path in images.items()],
            'AID images',
            report,
        )


def make_oscd(src: Path, dst: Path, report: Report) -> None:
    """Cut OSCD to ``{train,test}/{A,B,label}/*.png``, tiles of 96 pixels."""
    title = 'Onera Satellite Change Detection dataset - '
    with tempfile.TemporaryDirectory() as folder:
        cities = sorted(path.name for path in (src / f'{title}Images').iterdir() if path.is_dir())
        for part in ('Images', 'Train Labels'):
            (Path(folder) / f'{title}{part}').mkdir()
            for city in cities:
                (Path(folder) / f'{title}{part}' / city).symlink_to(
                    (src / f'{title}{part}' / city).resolve()
                )
        train = [city for city in cities if city not in OSCD_TEST]
        for split, chosen in (('train', train), ('test', OSCD_TEST)):
            (Path(folder) / f'{title}Images' / f'{split}.txt').write_text(','.join(chosen))
        found = prepare_oscd(Path(folder), dst)
    report.made |= {f'OSCD {what}': count for what, count in found.made.items()}
    report.bad += found.bad


def make_ucas(src: Path, dst: Path, report: Report) -> None:
    """Cut UCAS-AOD to ``{train,val}/{images,annfiles}``, tiles of 400 pixels; write COCO jsons."""
    images = images_in(src / 'images', report)
    splits = deal(images, dict(train=3 / 4, val=1 / 4))
    for split in ('train', 'val'):
        items = [
            (path, src / 'labels' / f'{stem}.txt', dst / split)
            for stem, path in images.items()
            if splits[stem] == split
        ]
        process(_cut_ucas, items, f'UCAS-AOD {split} images', report)
        write_json(dst / f'{split}.json', _as_coco(dst / split))


def _cut_ucas(item: tuple[Path, Path, Path]) -> None:
    image, labels, dst = item
    boxes = name_classes(read_yolo_obb(labels, read_size(image)), UCAS_CLASSES)
    cut(UCAS_TILING, image, image.stem, list(boxes), dst)


def _as_coco(folder: Path) -> dict:
    """Return the upright boxes around the rotated boxes of the tiles, as COCO annotations."""
    coco = dict(
        images=[],
        annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate(UCAS_CLASSES)],
    )
    for number, path in enumerate(sorted((folder / 'annfiles').glob('*.txt'))):
        side = UCAS_TILING.side
        coco['images'].append(
            dict(id=number, file_name=f'{path.stem}.png', width=side, height=side)
        )
        for box in read_dota(path):
            x1, y1 = box.corners.min(0).clip(0, side).tolist()
            x2, y2 = box.corners.max(0).clip(0, side).tolist()
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']),
                    image_id=number,
                    iscrowd=0,
                    category_id=UCAS_CLASSES.index(box.name),
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                )
            )
    return coco


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('samples', type=Path, metavar='SAMPLES', help='folder of the samples')
    parser.add_argument('out', type=Path, help='folder to make')
    add_debug(parser)
    args = parser.parse_args()
    report = Report()
    with users_errors(args.debug):
        make_aid(args.samples / 'aid_150px', args.out / 'aid', report)
        make_oscd(args.samples / 'oscd', args.out / 'oscd', report)
        make_ucas(args.samples / 'ucas_aod', args.out / 'ucas_aod', report)
    print(json.dumps(report.made, indent=1))
    if report.bad:
        print(f'{len(report.bad)} could not be used:', *report.bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
