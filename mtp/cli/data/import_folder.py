"""Import a folder of images and labels in any common form into one layout, with a data.yaml.

    mtp data import SRC DST --split 0.8
    mtp data import SRC DST --tile 1024 --overlap 200
    mtp data import SRC DST --tile 1024 --masks sam    # boxes become masks, for pretraining

Splits that exist are kept; else images are divided by scene (the name before ``__``, or --group),
with the classes in equal shares. The exit code is 1 if something could not be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.arguments import add_bands, add_form
from mtp.cli.errors import add_debug, users_errors

EXAMPLES = 10


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', type=Path, help='folder of the data, or its data.yaml')
    parser.add_argument('dst', type=Path, help='folder to make')
    parser.add_argument(
        '--split', type=float, default=0.8, help='share for training (default: %(default)s)'
    )
    parser.add_argument(
        '--group',
        metavar='REGEX',
        help='scene in the name of an image, all of which goes into one split: what the pattern, '
        'or its group in brackets, matches',
    )
    parser.add_argument('--tile', type=int, metavar='N', help='cut tiles of N x N pixels')
    parser.add_argument(
        '--overlap', type=int, default=0, metavar='N', help='overlap of tiles in pixels (0)'
    )
    add_form(parser)
    parser.add_argument(
        '--boxes-as-rotated', action='store_true', help='make rotated boxes of horizontal ones'
    )
    parser.add_argument(
        '--masks',
        choices=('sam',),
        help='make masks of boxes with a Segment Anything model (needs mtp[sam]); a mask that '
        'leaves its box by more than a tenth is left out, and counted',
    )
    parser.add_argument(
        '--sam',
        metavar='NAME|PATH',
        default='facebook/sam-vit-base',
        help='its weights, on the Hugging Face hub or in a folder (default: %(default)s)',
    )
    parser.add_argument(
        '--task',
        choices=('horizontal_detection', 'rotated_detection', 'pretraining'),
        help='what objects with masks are imported for (pretraining, which has all their labels)',
    )
    parser.add_argument(
        '--area',
        type=Path,
        metavar='FILE',
        help='vector file of the ground that is labelled: what is outside is left out',
    )
    add_bands(parser)
    parser.add_argument('--seed', type=int, default=0, help='seed of the division (0)')
    add_debug(parser)
    args = parser.parse_args(arguments)
    if args.tile is not None and not 0 <= args.overlap < args.tile:
        parser.error('--overlap must be from 0 to below --tile')

    from mtp.data.own.contents import read_data
    from mtp.data.own.importing import KIND_OF, Options, import_data
    from mtp.data.own.recognition import recognise
    from mtp.data.own.sam_masks import load_sam

    with users_errors(args.debug):
        options = Options(
            train=args.split,
            group=args.group,
            tile=args.tile,
            overlap=args.overlap,
            seed=args.seed,
            as_rotated=args.boxes_as_rotated,
            kind=KIND_OF[args.task] if args.task else None,
            bands=args.bands,
            stretch=args.stretch,
            area=args.area,
            predict=load_sam(args.sam) if args.masks else None,
        )
        data = read_data(recognise(args.src, args.format), args.class_column)
        report = import_data(data, args.dst, options)
    for what, count in report.made.items():
        print(f'{count:>9,} {what}')
    for reason, count in report.left_out.items():
        print(f'{count:>9,} left out: {reason}')
    for text in data.tally.notes:
        print(f'note: {text}')
    print(f'written: {args.dst / "data.yaml"}')
    if report.bad:
        more = len(report.bad) - EXAMPLES
        shown = report.bad[:EXAMPLES] + ([f'and {more:,} more'] if more > 0 else [])
        print(f'{len(report.bad):,} could not be used:', *shown, sep='\n  ', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
