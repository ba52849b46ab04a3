"""Print the hash of a file of weights, and compare its keys and shapes with the recorded ones.

    mtp weights check checkpoints/mae_pretrain_vit_base.pth
    mtp weights check levir_vit_b_rvsa

The exit code is 1 if they differ.
"""

import argparse
import sys
from collections.abc import Sequence

from mtp.cli.errors import add_debug, users_errors

SHOWN = 10  # keys of each kind


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('file', help='file, folder, hf://owner/name, or a name of the list')
    add_debug(parser)
    args = parser.parse_args(arguments)
    from mtp.engine.shards import read_entries
    from mtp.models.weights.catalogue import CATALOGUE
    from mtp.models.weights.layouts import compare, matching
    from mtp.models.weights.sources import check_digests, digests, resolve

    with users_errors(args.debug):
        path = resolve(args.file)
        shapes = {key: tuple(value.shape) for key, value in read_entries(path).items()}
        print(f'{path}: {len(shapes)} entries')
        if path.is_file():
            hashes = digests(path)
            print(f'{hashes.size:,} bytes, SHA-256 {hashes.sha256}')
            for weights in CATALOGUE.values():
                if weights.name == args.file or weights.file == path.name:
                    check_digests(weights, hashes, path)
    found = compare(shapes)
    names = [weights.name for weights in matching(found)]
    if names:
        others = len(found.unexpected)
        print(
            f'complete: the {found.equal} keys and shapes of {" or ".join(names)}'
            + (f'; {others} others, as its file may have' if others else '')
        )
        return
    print(f'differs from the most similar recorded weights, {found.layout}: {found.equal} equal')
    reshaped = [f'{key} {old} instead of {new}' for key, (old, new) in found.reshaped.items()]
    for title, keys in (
        ('missing', found.missing),
        ('unexpected', found.unexpected),
        ('of another shape', reshaped),
    ):
        if keys:
            print(f'{len(keys)} {title}:')
            print('\n'.join(f'  {key}' for key in keys[:SHOWN]))
    sys.exit(1)
