"""Make a multi-task data set (layout of SAMRS' SOTA) of any COCO annotations with masks.

    python tools/data/coco_to_samrs.py instances.json images/ data/mine

Semantic maps come from the masks, rotated boxes are their rectangles of least area. A config
reads it with ``dict(type=SAMRSDataset, subset='sota', name='mine', data_root='data/mine',
classes=(...))``; this prints the classes.
"""
import argparse
import sys
from pathlib import Path

from mtp.data.conversion import class_counts, coco_to_samrs
from mtp.data.samrs import SUBSETS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path, help='COCO json with polygons or RLE')
    parser.add_argument('images', type=Path, help='folder of the images')
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument('--val-fraction', type=float, default=0.2, help='images for validation')
    parser.add_argument('--seed', type=int, default=0, help='of the division')
    args = parser.parse_args()
    try:
        report = coco_to_samrs(args.annotations, args.images, args.out, args.val_fraction,
                               args.seed)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    counts = {split: class_counts(args.out / SUBSETS['sota'].instances.format(split=split))
              for split in report.written}
    print('images:', ', '.join(f'{count} {split}' for split, count in report.written.items()))
    names = sorted(set().union(*counts.values()))
    for name in names:
        print(f'  {name:<24}' + '  '.join(
            f'{counter[name]:>6} {split}' for split, counter in counts.items()))
    if report.bad:
        print(f'{len(report.bad)} could not be used:', *report.bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
