"""Make a page of a training run: ``mtp report work_dirs/<name>``.

Writes ``report.html``: curves, metrics, time, memory, data and config. A page of a test is made by
``mtp test --report``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.errors import add_debug, users_errors


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='work directory of a training run')
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='page to write; default: WORK_DIR/report.html'
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    with users_errors(args.debug):
        from mtp.engine.run_report import report_run

        path = report_run(args.work_dir, args.out or args.work_dir / 'report.html')
    print(f'Report written to {path}')
