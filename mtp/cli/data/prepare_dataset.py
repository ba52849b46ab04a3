"""Prepare a data set: from its publisher's files (archives unpacked) to what its config reads.

    mtp data prepare --list
    mtp data prepare levir downloads/LEVIR-CD data/levir
    mtp data prepare dota_v1 downloads/DOTA data/dota_v1_ms --multi-scale

Uses all cores. Started again after an interruption, or after mending files, it continues where it
stopped. Unusable files and labels are listed at the end, and the exit code is then 1.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors
from mtp.data.datasets import DATASETS
from mtp.data.prepare import prepare


def describe(name: str) -> str:
    """Return where to get a data set, its licence, size and layout, and what to cite."""
    dataset = DATASETS[name]
    task = dataset.task.replace('_', ' ')
    lines = [f'{name}: {dataset.title}, {task}, {len(dataset.classes)} classes']
    for key in ('source', 'licence', 'size', 'layout', 'citation'):
        lines.append(
            textwrap.fill(
                getattr(dataset, key),
                width=100,
                initial_indent=f'  {key:<9}',
                subsequent_indent=' ' * 11,
                break_on_hyphens=False,
            )
        )
    return '\n'.join(lines)


class List(argparse.Action):
    """Action that prints all data sets and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print('\n\n'.join(map(describe, DATASETS)))
        parser.exit()


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--list',
        action=List,
        nargs=0,
        help='list the data sets: where to get each, its licence, its size, '
        'the layout of SRC and what to cite',
    )
    parser.add_argument('dataset', choices=DATASETS, metavar='DATASET', help=', '.join(DATASETS))
    parser.add_argument('src', type=Path, metavar='SRC', help="folder of the publisher's files")
    parser.add_argument('dst', type=Path, metavar='DST', help='folder to write to')
    several = ', '.join(name for name, dataset in DATASETS.items() if dataset.multi_scale)
    parser.add_argument(
        '--multi-scale',
        action='store_true',
        help=f'cut tiles at the rates 0.5, 1 and 1.5 ({several})',
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    with users_errors(args.debug):
        report = prepare(args.dataset, args.src, args.dst, args.multi_scale)
    for what, count in report.made.items():
        print(f'{args.dst}: {count} {what}')
    for what, count in report.left_out.items():
        if count:
            print(f'left out, as the recipe has it: {count} {what}')
    if report.bad:
        print(f'{len(report.bad)} could not be used:', *report.bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)
