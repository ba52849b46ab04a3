"""Pack a data set into a few large files that are read without decoding; see docs/data.md.

    mtp data pack data/samrs/SOTA data/packed/SOTA --subset sota

Started again after an interruption, it continues where it stopped. The exit code is 1 if an image
was left out.
"""

import argparse
import sys
from collections.abc import Sequence

from mtp.cli.errors import add_debug, users_errors
from mtp.data.samrs.subsets import SUBSETS


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', help='root of the data set, in the layout of SAMRS')
    parser.add_argument('folder', help='folder to write to')
    parser.add_argument(
        '--subset', choices=SUBSETS, required=True, help='subset whose layout the data set has'
    )
    parser.add_argument('--split', default='train', help='split to pack (default: %(default)s)')
    parser.add_argument('--name', help="name of the data set (default: the subset's)")
    parser.add_argument(
        '--classes', nargs='+', help="classes in label order (default: the subset's)"
    )
    parser.add_argument('--workers', type=int, help='number of processes (default: one per core)')
    add_debug(parser)
    args = parser.parse_args(arguments)
    from mtp.data import SAMRSDataset
    from mtp.data.packed import pack

    with users_errors(args.debug):
        source = SAMRSDataset(args.subset, args.source, args.split, args.classes, args.name)
        report = pack(source, args.folder, args.workers)
    print(f'{args.folder}: {report.images} of {len(source)} images')
    if report.bad:
        print(f'{len(report.bad)} were left out:', *report.bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)
