"""Draw the curves of a training run: ``python tools/plot_curves.py work_dirs/<name>``."""

import argparse
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.visualization import plot_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work directory of a training run')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help='picture to write (.png, .svg, .pdf); default: WORK_DIR/curves.png',
    )
    add_debug(parser)
    args = parser.parse_args()
    with users_errors(args.debug):
        path = plot_curves(args.work_dir, args.out or args.work_dir / 'curves.png')
    print(f'Curves written to {path}')


if __name__ == '__main__':
    main()
