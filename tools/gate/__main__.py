"""Compile, on a machine without a GPU, everything that training compiles on one; launch nothing.

    python -m tools.gate                     # everything, for capabilities 9.0 and 8.6
    python -m tools.gate 'vit_b_rvsa one' --capabilities 90
    python -m tools.gate --report            # the table of results so far

Training steps are traced on tensors without numbers. Inductor lowers each graph and Triton compiles
each kernel as if a GPU were there. Results are written line by line below --out; started again, the
command continues from there. The exit code is 1 where a part breaks into several graphs, inductor
does not lower one, or no configuration of a kernel can run.
"""

import argparse
import os
import sys
from pathlib import Path

from tools.gate.devices import DEVICES
from tools.gate.workloads import HEAVIEST, WORKLOADS


def main() -> None:
    options = parse()
    os.environ.pop('TRITON_INTERPRET', None)  # it makes Triton's own library uncompilable
    from tools.gate import report
    from tools.gate.run import Run
    from tools.gate.store import Store

    store = Store(options.out)
    if not options.report:
        Run(store, options).everything()
    found = report.collect(store, options.workloads, options.capabilities, options.others)
    print(report.table(found), report.own_table(found), sep='\n\n')
    print(report.faults(found))
    sys.exit(found.failed)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.gate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'workloads',
        nargs='*',
        metavar='WORKLOAD',
        default=[name for name in WORKLOADS if name != 'quick'],
        help=f'{", ".join(WORKLOADS)}; default: all but quick, which is for the test suite',
    )
    parser.add_argument(
        '--capabilities',
        nargs='+',
        type=int,
        default=[90, 86],
        choices=DEVICES,
        help='compute capabilities to lower and compile everything for (default: 90 86)',
    )
    parser.add_argument(
        '--others',
        nargs='*',
        type=int,
        default=list(DEVICES),
        choices=DEVICES,
        help=f'compute capabilities to compile the {HEAVIEST} heaviest kernels of each part '
        "and the project's own for (default: all)",
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/gate'),
        help='folder for the results (default: work_dirs/gate)',
    )
    parser.add_argument('--minutes', type=float, default=45, help='time after which to stop (45)')
    parser.add_argument(
        '--processes', type=int, default=2, help='number of processes (2); 1: only this one'
    )
    parser.add_argument('--report', action='store_true', help='only print the results so far')
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(
            f'no workload {", ".join(sorted(unknown))}: choose from {", ".join(WORKLOADS)}'
        )
    return options


if __name__ == '__main__':
    main()
