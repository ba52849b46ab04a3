"""Convert an official checkpoint of the whole multi-task model to one of mtp.

    python tools/checkpoints/convert_official.py IN.pth OUT.pth

OUT loads with ``tools/test.py configs/pretrain/<backbone>_samrs.py OUT.pth``, and as a start with
``--cfg-options load_from=OUT.pth``. An encoder checkpoint needs no conversion.
"""

import argparse
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.files import whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, metavar='IN', help='official checkpoint')
    parser.add_argument('target', type=Path, metavar='OUT', help='file to write')
    parser.add_argument(
        '--datasets',
        nargs='+',
        default=['sota', 'sior', 'fast'],
        help="our names of the official model's data sets 1, 2, 3, ...",
    )
    add_debug(parser)
    args = parser.parse_args()
    if args.target.exists():
        parser.error(f'{args.target} exists: remove it or choose another name')
    import torch

    from mtp.models.weights.loading import read_state_dict
    from mtp.models.weights.official import convert_official

    with users_errors(args.debug):
        state = convert_official(read_state_dict(args.source), args.datasets)
    with whole(args.target) as unfinished, open(unfinished, 'wb') as file:
        torch.save({'state_dict': state}, file)
    print(
        f'{args.target}: {len(state)} tensors, '
        f'{sum(tensor.numel() for tensor in state.values()):,} values'
    )


if __name__ == '__main__':
    main()
