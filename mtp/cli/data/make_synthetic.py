"""Make a small synthetic data set to try everything on.

    mtp data make-synthetic data/synthetic
    mtp data make-synthetic downloads/dota --dataset dota_v1

SAMRS is ready for training. The others have their publisher's layout, which mtp data prepare
reads.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

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
    args = parser.parse_args(arguments)
    if args.dataset:
        if any(
            getattr(args, name) != parser.get_default(name)
            for name in ('num_train', 'num_valid', 'image_size')
        ):
            parser.error(
                f'the small copy of {args.dataset} has a fixed size: leave out '
                '--num-train, --num-valid and --image-size'
            )
        if args.out.exists() and any(args.out.iterdir()):
            parser.error(f'{args.out} is not empty: remove it or choose another folder')
        root = DATASETS[args.dataset].synthesise(args.out, seed=args.seed)
        print(f'{root}: a small copy of {args.dataset}')
        return
    try:
        root = make_samrs(args.out, args.num_train, args.num_valid, args.image_size, args.seed)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    print(f'{root}: {args.num_train} + {args.num_valid} images of each of SOTA, SIOR and FAST')
