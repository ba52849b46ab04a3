"""Check a data root before training on it for hours.

    mtp data check data/samrs
    mtp data check data/levir --dataset levir

Uses all cores. Prints a table of the checks with examples of problems; the exit code is 1 if there
are any.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtp.cli.errors import add_debug, users_errors
from mtp.data.checks import CHECKS as PREPARED_CHECKS
from mtp.data.checks import check_prepared
from mtp.data.datasets import DATASETS
from mtp.data.samrs.checking import CHECKS, Findings, check_subset, find_subsets


def table(root: Path, findings: Findings, checks: Mapping[str, str], examples: int) -> Table:
    """Return a table with a row for each check."""
    counts = ', '.join(f'{count} {split} images' for split, count in findings.images.items())
    objects = f', {findings.objects} objects' if findings.objects else ''
    rows = Table(
        'check', 'problems', 'for example', title=f'{escape(str(root))}: {counts}{objects}'
    )
    for kind, description in checks.items():
        found = findings.problems.get(kind, [])
        shown = '\n'.join(found[:examples]).replace(f'{root}/', '')
        rows.add_row(description, str(len(found)), escape(shown))
    return rows


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'root', type=Path, help='folder with SOTA, SIOR and FAST, or the root of one data set'
    )
    parser.add_argument(
        '--dataset',
        choices=DATASETS,
        metavar='NAME',
        help=f'data set in the root (default: SAMRS): {", ".join(DATASETS)}',
    )
    parser.add_argument(
        '--examples', type=int, default=3, help='examples of each problem to show (3)'
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    failed = False
    with users_errors(args.debug):
        roots = {args.dataset: args.root} if args.dataset else find_subsets(args.root)
        for name, root in roots.items():
            check, checks = (
                (check_prepared, PREPARED_CHECKS) if args.dataset else (check_subset, CHECKS)
            )
            findings = check(root, name)
            Console().print(table(root, findings, checks, args.examples))
            failed |= bool(findings.problems)
    sys.exit(int(failed))
