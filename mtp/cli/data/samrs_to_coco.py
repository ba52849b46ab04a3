"""Make the COCO json files of SAMRS from its .pkl files.

    mtp data samrs-to-coco data/samrs

Uses all cores. Started again after an interruption, or after mending files, it continues where it
stopped. Unusable files are listed at the end, and the exit code is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.samrs.to_coco import samrs_to_coco


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, help='folder with SOTA, SIOR and FAST')
    parser.add_argument(
        '--subset',
        nargs='+',
        choices=SUBSETS,
        default=list(SUBSETS),
        help='subsets to convert (default: all)',
    )
    parser.add_argument(
        '--val-fraction',
        type=float,
        default=0.1,
        help='share of the images for validation, where train.txt and valid.txt '
        'are missing (default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of that division')
    add_debug(parser)
    args = parser.parse_args(arguments)

    bad = []
    for subset in args.subset:
        with users_errors(args.debug):
            report = samrs_to_coco(
                args.root / subset.upper(), subset, val_fraction=args.val_fraction, seed=args.seed
            )
        for split in report.skipped:
            print(f'{subset} {split}: its json is there already')
        for split, count in report.images.items():
            print(f'{subset} {split}: {count} images, {report.objects[split].total()} objects')
        bad += report.bad
    if bad:
        print(f'{len(bad)} files could not be used:', *bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)
