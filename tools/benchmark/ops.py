"""Time the operators of ``mtp.ops`` side by side, in one process.

    python tools/benchmark/ops.py [--device cuda|cpu] [--json FILE] [--only NAME ...]
        [--repeats N] [--sizes paper|small|tiny]

For each operator and size it times the Triton kernel (on a GPU), its twin in torch, a plain
formulation as in the paper's code, and compiled packages where they are installed. Each runs in
float32 and in bfloat16 under autocast, forward alone and forward with backward.

- ``device``: median milliseconds of the call replayed as a CUDA graph, with a cold cache: what the
  device takes without Python. Where it cannot be captured, a line below the row says why.
- ``call``: median milliseconds of the call as Python makes it; on a GPU by device events, with a
  cold cache, so that gaps in which the device waits for Python are in it.
- ``host``: milliseconds of processor time of the host in the call; also meaningful on a busy CPU.
- ``floor``: milliseconds in which the fewest bytes are copied.
- ``GB/s``, ``TFLOP/s``: by ``device``, else by ``call``; of the fewest bytes and operations that
  the operator needs (see ``operators/cases.py``); also as a share of what the device reaches here
  in a copy and in a matrix product.
- ``MB``: memory that the call takes in addition to its operands.
- ``error``: largest difference of results and gradients to float64, over the largest value; for
  NMS the share of boxes on which the two decide differently.
- ``x plain``: how many times as long the plain form takes, by ``device`` where both have it.
- Goals are in ``operators/goals.py``: A is ``plain`` in float32, C is ``plain`` in bfloat16.
"""

import argparse
import datetime
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mtp.cli.arguments import add_device
from mtp.cli.errors import users_errors
from mtp.cli.own_gpu import choose_device
from mtp.files import json_text

OURS = ('kernel', 'torch')


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_device(parser)
    parser.add_argument('--json', type=Path, help='where to write the rows')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='operators; default: all')
    parser.add_argument('--repeats', type=int, help='of a measurement; default: 30, on a CPU 5')
    parser.add_argument(
        '--sizes', choices=('paper', 'small', 'tiny'), help='default: paper, on a CPU small'
    )
    options = parser.parse_args()
    with users_errors():
        choose_device(options.device)  # before torch starts
        from mtp.engine.devices import require_usable_gpu

        require_usable_gpu(options.device)
    import torch
    from operators.cases import cases

    options.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    on_cpu = options.device == 'cpu'
    options.repeats = options.repeats or (5 if on_cpu else 30)
    options.cases = list(cases(options.sizes or ('small' if on_cpu else 'paper')))
    known = {case.operator for case in options.cases}
    unknown = set(options.only or ()) - known
    if unknown:
        parser.error(f'--only {" ".join(sorted(unknown))}: there are {", ".join(sorted(known))}')
    return options


def main() -> int:
    options = parse()
    import torch
    from operators.timing import ceilings, describe, measure

    device = torch.device(options.device)
    report = {
        'device': describe(device),
        'torch': torch.__version__,
        'date': datetime.date.today().isoformat(),
        'repeats': options.repeats,
        'ceilings': ceilings(device, tiny=options.sizes == 'tiny'),
        'rows': [],
    }
    print(
        f'{report["device"]}, torch {report["torch"]}, {report["date"]}; copy '
        f'{report["ceilings"]["copy_gb_s"]:.1f} GB/s, matrix product '
        + ', '.join(
            f'{report["ceilings"][f"{name}_tflop_s"]:.3g} TFLOP/s in {name}'
            for name in ('float32', 'bfloat16')
        )
    )
    for case in options.cases:
        if options.only is None or case.operator in options.only:
            with patch.dict(os.environ, MTP_STRICT='1'):  # no twin is timed in a kernel's place
                rows = measure(case, device, options.repeats, report['ceilings'])
            print_rows(rows)
            report['rows'] += rows
    if options.json:
        options.json.write_text(json_text(report, indent=1))
    return int(any('failed' in row and row['form'] in OURS for row in report['rows']))


def print_rows(rows: list[dict[str, Any]]) -> None:
    def cell(row: dict[str, Any], key: str, format: str, factor: float = 1) -> str:
        if row.get(key) is None:
            return 'not run' if key == 'device_ms' else '-'
        return f'{row[key] * factor:{format}}'

    print(
        f'\n{rows[0]["operator"]}, {rows[0]["size"]}, {rows[0]["images"]} image(s)\n'
        + ' ' * 33
        + 'device     call    host   floor    GB/s  %copy  TFLOP/s  %matmul      MB    error'
        '  x plain  x plain float32'
    )
    for row in rows:
        title = f'{row["form"]:<12} {row["dtype"]:<8} {row["mode"]:<8}'
        if 'failed' in row:
            print(f'{title} {row["failed"]}')
            continue
        print(
            title
            + ''.join(
                cell(row, *column).rjust(width)
                for width, *column in (
                    (9, 'device_ms', '.3f'),
                    (9, 'ms', '.3f'),
                    (8, 'host_ms', '.3f'),
                    (8, 'floor_ms', '.3f'),
                    (8, 'gb_s', '.1f'),
                    (7, 'of_copy', '.1f', 100),
                    (9, 'tflop_s', '.4f'),
                    (9, 'of_matmul', '.1f', 100),
                    (8, 'peak_mb', '.0f'),
                    (9, 'error', '.0e'),
                    (9, 'times_plain', '.2f'),
                    (17, 'times_plain_float32', '.2f'),
                )
            ),
            flush=True,
        )
        for line in (*row.get('not_captured', ()), *row.get('goals', ())):
            print(f'    {line}')


if __name__ == '__main__':
    sys.exit(main())
