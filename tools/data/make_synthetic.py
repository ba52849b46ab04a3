"""Make a small synthetic SAMRS to try everything on.

    python tools/data/make_synthetic.py data/synthetic
"""
import argparse
from pathlib import Path

from mtp.data.synthetic import make_samrs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument('--num-train', type=int, default=200, help='training images per subset')
    parser.add_argument('--num-valid', type=int, default=40, help='validation images per subset')
    parser.add_argument('--image-size', type=int, default=128, help='side in pixels')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        root = make_samrs(args.out, args.num_train, args.num_valid, args.image_size, args.seed)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    print(f'{root}: {args.num_train} + {args.num_valid} images of each of SOTA, SIOR and FAST')


if __name__ == '__main__':
    main()
