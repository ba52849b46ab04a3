"""Write a checkpoint in a form that other projects read.

    mtp export work_dirs/levir/epoch_150.pth --to safetensors

writes model.safetensors and a model card, README.md, into a folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors

FORMS = ('safetensors',)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint', help='file, folder, hf://owner/name, or a name of `mtp weights list`'
    )
    parser.add_argument('--to', choices=FORMS, required=True, help='form of the files')
    parser.add_argument(
        '--out', type=Path, help='folder to write to (<checkpoint without suffix>_<form>)'
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    from mtp.export.safetensors_file import export_safetensors
    from mtp.models.weights.sources import resolve

    with users_errors(args.debug):
        path = resolve(args.checkpoint)
        out = args.out or path.with_name(f'{path.stem}_{args.to}')
        for file in export_safetensors(path, out):
            print(f'{file}: {file.stat().st_size:,} bytes')
