"""Draw what a model is trained on: samples with their labels, as loaded and as augmented.

    mtp data browse configs/pretrain/vit_tiny_rvsa_demo.py

Writes one picture, named after the config.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.arguments import RunOptions, add_config_options
from mtp.cli.errors import add_debug, users_errors


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='a config of any task')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/browse'),
        help='folder for the picture (default: %(default)s)',
    )
    parser.add_argument(
        '--num', type=int, default=8, help='number of samples (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of choice and augmentation')
    add_config_options(parser)
    add_debug(parser)
    args = parser.parse_args(arguments)
    from PIL import Image

    from mtp.cli import launch
    from mtp.recipes import multispectral
    from mtp.visualization.browse import browse

    with users_errors(args.debug):
        cfg = launch.load_config(RunOptions(args.config, cfg_options=args.cfg_options))
        multispectral.adapt(cfg)
        page = browse(cfg, args.num, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'{Path(args.config).stem}.png'
    Image.fromarray(page).save(path)
    print(f'{path}: {args.num} samples')
