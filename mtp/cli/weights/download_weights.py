"""Download weights into mtp's folder, or print where to get them.

    mtp weights download mae_vit_b
    mtp weights download levir_vit_b_rvsa

The folder is MTP_HOME, or ~/.cache/mtp. Where no address gives the file itself, the authors' page,
the file's name and where to put it are printed, and the exit code is 1.
"""

import argparse
import sys
from collections.abc import Sequence

from mtp.cli.errors import add_debug, users_errors
from mtp.spelling import suggest


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', help='one that `mtp weights list` prints')
    add_debug(parser)
    args = parser.parse_args(arguments)
    from mtp.models.weights.catalogue import CATALOGUE, Weights
    from mtp.models.weights.released import find_file, folders
    from mtp.models.weights.sources import check_digests, digests, download

    def by_hand(weights: Weights) -> str:
        lines = [
            f'{weights.name} cannot be downloaded by a program. By hand:',
            f'  page:   {weights.page}',
            *(f'  folder: {address}' for address in weights.shares),
            f'  file:   {weights.file or "unknown name; choose it by data set and backbone"}',
            *(f'  put at: {folder / weights.kept_as}' for folder in reversed(folders())),
            '  then:   mtp weights check ' + weights.name,
        ]
        return '\n'.join(lines)

    if args.name not in CATALOGUE:
        parser.error(f'no weights {args.name}{suggest(args.name, CATALOGUE)}: see mtp weights list')
    weights = CATALOGUE[args.name]
    if weights.url is None and not find_file(weights.kept_as).is_file():
        print(by_hand(weights))
        sys.exit(1)
    with users_errors(args.debug):
        path = download(weights)
        found = digests(path)
        check_digests(weights, found, path)
    print(f'{path}: {found.size:,} bytes, SHA-256 {found.sha256}')
    print(f'licence: {weights.licence or "unknown"}; paper: {weights.paper or "unknown"}')
