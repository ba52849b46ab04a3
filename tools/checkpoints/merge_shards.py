"""Merge the folder of a sharded checkpoint into one file.

``python tools/checkpoints/merge_shards.py work_dirs/<name>/iter_80000.pth merged.pth``

The file equals one saved by a run with ``ReplicatedModel``: every tool takes it.
"""

import argparse
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='folder of the sharded checkpoint')
    parser.add_argument('file', type=Path, help='file to write')
    add_debug(parser)
    args = parser.parse_args()
    from mtp.engine.shards import merge_shards

    with users_errors(args.debug):
        merge_shards(args.folder, args.file)


if __name__ == '__main__':
    main()
