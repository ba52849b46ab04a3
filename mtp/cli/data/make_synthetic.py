"""Make a small synthetic data set to try everything on.

    mtp data make-synthetic data/synthetic
    mtp data make-synthetic downloads/dota --dataset dota_v1

SAMRS is ready for training. The others have their publisher's layout, which mtp data prepare
reads.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.data.datasets import DATASETS
from mtp.data.samrs.synthesis import make_samrs


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument(
        '--dataset',
        choices=DATASETS,
        metavar='NAME',
        help=f'one of {", ".join(DATASETS)} (default: SAMRS)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of everything (0)')
    sizes = parser.add_argument_group('for SAMRS only')
    sizes.add_argument('--num-train', type=int, default=200, help='training images per subset')
    sizes.add_argument('--num-valid', type=int, default=40, help='validation images per subset')
    sizes.add_argument('--image-size', type=int, default=128, help='side in pixels')
    add_debug(parser)
    args = parser.parse_args(arguments)
    of_samrs = ('num_train', 'num_valid', 'image_size')
    if args.dataset and any(getattr(args, key) != parser.get_default(key) for key in of_samrs):
        parser.error(
            f'the small copy of {args.dataset} has a fixed size: leave out '
            '--num-train, --num-valid and --image-size'
        )
    with users_errors(args.debug):
        print(make(args))


def make(args: argparse.Namespace) -> str:
    """Make the data set; return what it is.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: a number or size is too small.
    """
    if args.dataset:
        if args.out.exists() and any(args.out.iterdir()):
            raise FileExistsError(f'{args.out} is not empty: remove it or choose another folder')
        root = DATASETS[args.dataset].synthesise(args.out, seed=args.seed)
        return f'{root}: a small copy of {args.dataset}'
    root = make_samrs(args.out, args.num_train, args.num_valid, args.image_size, args.seed)
    return f'{root}: {args.num_train} + {args.num_valid} images of each of SOTA, SIOR and FAST'
