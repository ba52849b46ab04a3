"""Check a data root before hours of training find out.

    python tools/data/check_dataset.py data/samrs

Uses all cores. Prints a table of the checks with examples of what is wrong; the exit code is 1
if anything is.
"""
import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtp.data.checking import CHECKS, Findings, check_subset, find_subsets


def table(root: Path, findings: Findings, examples: int) -> Table:
    """A row for each check."""
    counts = ', '.join(f'{count} {split} images' for split, count in findings.images.items())
    rows = Table('check', 'problems', 'for example',
                 title=f'{escape(str(root))}: {counts}, {findings.objects} objects')
    for kind, description in CHECKS.items():
        found = findings.problems.get(kind, [])
        shown = '\n'.join(found[:examples]).replace(f'{root}/', '')
        rows.add_row(description, str(len(found)), escape(shown))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path,
                        help='folder that holds SOTA, SIOR and FAST, or the root of one data set')
    parser.add_argument('--examples', type=int, default=3, help='of each problem to show')
    args = parser.parse_args()
    try:
        subsets = find_subsets(args.root)
    except FileNotFoundError as error:
        parser.error(str(error))
    failed = False
    for subset, root in subsets.items():
        findings = check_subset(root, subset)
        Console().print(table(root, findings, args.examples))
        failed |= bool(findings.problems)
    sys.exit(int(failed))


if __name__ == '__main__':
    main()
