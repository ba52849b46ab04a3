"""List the weights that mtp knows by name.

    mtp weights list
    mtp weights list levir

An empty cell is unknown. `here` is the path of a file that is at hand.
"""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('part', nargs='?', default='', help='part of the names to list')
    args = parser.parse_args(arguments)
    from mtp.models.weights.catalogue import CATALOGUE
    from mtp.models.weights.released import find_file

    rows = Table('name', 'kind', 'pixels', 'figure', 'licence', 'download', 'here', box=None)
    for name, weights in CATALOGUE.items():
        if args.part in name:
            path = find_file(weights.kept_as)
            rows.add_row(
                name,
                weights.kind,
                str(weights.input_size or ''),
                weights.figure or '',
                weights.licence or '',
                'yes' if weights.url else 'by hand',
                str(path) if path.is_file() else '',
            )
    # whole rows in a pipe, which has no width
    console = Console()
    Console(width=None if console.is_terminal else 200).print(rows)
