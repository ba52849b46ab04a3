"""Make a multi-task data set (layout of SAMRS' SOTA) from any COCO annotations with masks.

    mtp data coco-to-samrs instances.json images/ data/mine

Semantic maps come from the masks; rotated boxes are their rectangles of least area. A config reads
the result with ``dict(type=SAMRSDataset, subset='sota', name='mine', data_root='data/mine',
classes=(...))``. The classes are printed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.data.label_files import read_text
from mtp.data.samrs.from_coco import coco_to_samrs
from mtp.data.samrs.to_coco import Report


def table(report: Report) -> str:
    """Return a table of the objects of each class in each split."""
    lines = [
        f'{"":<24}' + ''.join(f'{split:>8}' for split in report.images),
        f'{"images":<24}' + ''.join(f'{count:>8}' for count in report.images.values()),
    ]
    for name in next(iter(report.objects.values())):
        lines.append(
            f'{name:<24}' + ''.join(f'{objects[name]:>8}' for objects in report.objects.values())
        )
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', type=Path, help='COCO json with polygons or RLE')
    parser.add_argument('images', type=Path, help='folder of the images')
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument(
        '--val-fraction',
        type=float,
        default=0.2,
        help='share of the images for validation (default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the division')
    parser.add_argument(
        '--valid-list',
        type=Path,
        metavar='FILE',
        help='list of the images for validation, a file name per line, instead of a random share',
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    with users_errors(args.debug):
        valid = args.valid_list and set(read_text(args.valid_list).splitlines())
        report = coco_to_samrs(
            args.annotations, args.images, args.out, args.val_fraction, args.seed, valid
        )

    print(table(report))
    print(*report.notes, sep='\n', end='\n' if report.notes else '')
    print('classes =', tuple(report.objects['train']))
    if report.bad:
        print(f'{len(report.bad)} could not be used:', *report.bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)
