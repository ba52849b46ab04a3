"""Compile, on a machine without a GPU, all that training compiles on one; launch nothing.

    python -m tools.gate                     # everything, for capabilities 9.0 and 8.6
    python -m tools.gate 'vit_b_rvsa one' --capabilities 90
    python -m tools.gate --report            # the table of what has been found so far

Steps of training are traced on tensors without numbers; each graph is lowered by inductor and each
kernel compiled by Triton as if a GPU were there. What is found is written line by line below
--out, and a run that was ended goes on from there. Exits with 1 where a part breaks into several
graphs, inductor does not lower one, or no configuration of a kernel can run.
"""

import argparse
import os
import sys
from pathlib import Path

from tools.gate.devices import DEVICES
from tools.gate.workloads import HEAVIEST, WORKLOADS


def main() -> None:
    options = parse()
    os.environ.pop('TRITON_INTERPRET', None)  # which makes Triton's own library uncompilable
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
        help=f'of {", ".join(WORKLOADS)}; default: all but quick, which is for the test suite',
    )
    parser.add_argument(
        '--capabilities',
        nargs='+',
        type=int,
        default=[90, 86],
        choices=DEVICES,
        help='for which all is lowered and compiled (default: 90 86)',
    )
    parser.add_argument(
        '--others',
        nargs='*',
        type=int,
        default=list(DEVICES),
        choices=DEVICES,
        help=f'for which the {HEAVIEST} heaviest kernels of each part and the '
        "project's own are compiled (default: all)",
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/gate'),
        help='folder of the results (default: work_dirs/gate)',
    )
    parser.add_argument('--minutes', type=float, default=45, help='after which to stop')
    parser.add_argument('--processes', type=int, default=2, help='1: no further ones')
    parser.add_argument('--report', action='store_true', help='run nothing')
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f'no workload {", ".join(sorted(unknown))}: choose of {", ".join(WORKLOADS)}')
    return options


if __name__ == '__main__':
    main()
