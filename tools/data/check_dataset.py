"""Check a data root before hours of training find out.

    python tools/data/check_dataset.py data/samrs
    python tools/data/check_dataset.py data/mine --subset sota

Prints a table of the checks with examples of what is wrong; the exit code is then 1.
"""
import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtp.data.checking import CHECKS, check_subset
from mtp.data.samrs import SUBSETS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, help='folder that holds SOTA, SIOR and FAST; with '
                        '--subset, of the one subset')
    parser.add_argument('--subset', choices=SUBSETS, help='the layout of a single data set')
    parser.add_argument('--examples', type=int, default=3, help='of each problem to show')
    args = parser.parse_args()
    if args.subset:
        roots = {args.subset: args.root}
    else:
        roots = {name: args.root / name.upper() for name in SUBSETS
                 if (args.root / name.upper()).is_dir()}
    if not roots:
        parser.error(f'{args.root} holds none of SOTA, SIOR, FAST: check the path, or name the '
                     'layout with --subset')

    failed = False
    for subset, root in roots.items():
        try:
            counts, problems = check_subset(root, subset)
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        table = Table('check', 'problems', 'for example', title=f'{root}: ' + ', '.join(
            f'{count} {split} images' for split, count in counts.items()))
        for kind, description in CHECKS.items():
            found = problems.get(kind, [])
            table.add_row(description, str(len(found)), '\n'.join(found[:args.examples]))
        Console().print(table)
        failed |= bool(problems)
    sys.exit(int(failed))


if __name__ == '__main__':
    main()
