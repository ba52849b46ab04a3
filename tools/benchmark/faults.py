"""Let training fail in many ways, go on, and compare the end with that of an undisturbed run.

    python tools/benchmark/faults.py [--kills 50] [--out DIR] [--only NAME ...]

Trains tiny models on two processes, with a moving average of the weights: pretraining, and a
finetuning recipe of each library. Weights, optimiser, average, schedule, log and the pixels of each
sample must be equal to the bit; after a NaN, to those of a run that left this update out. Started
again with the same --out, it goes on after the faults in results.jsonl. The exit code is 1 if a run
did not recover, lost a sample or differs.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from campaign.plan import KINDS, RECIPES, plan


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kills', type=int, default=50, help='kills at random moments (50)')
    parser.add_argument('--out', type=Path, help='folder of all runs; default: a temporary one')
    parser.add_argument(
        '--only',
        nargs='+',
        default=[],
        metavar='NAME',
        choices=(*KINDS, *RECIPES),
        help=f'faults and recipes, of {", ".join((*KINDS, *RECIPES))}; default: all',
    )
    return parser.parse_args()


def main() -> None:
    options = parse()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    out = (options.out or Path(tempfile.mkdtemp())).absolute()
    out.mkdir(parents=True, exist_ok=True)
    print(f'{_commit()}, {platform.machine()}, {os.cpu_count()} cores; all runs are in {out}')

    import mtp  # noqa: F401  (gives mmcv its operators)

    # isort: split
    import torch
    from campaign import injection
    from campaign.trial import Campaign

    from mtp.cli import finetuning

    torch.set_num_threads(1)
    finetuning._import_heavy()
    injection._environment()  # once for all processes
    results = out / 'results.jsonl'
    known = _read(results)
    campaign, rows = Campaign(out), []
    for fault in plan(options.kills, options.only):
        row = known.get(fault.key)
        if row is None:
            row = campaign.run(fault)
            with results.open('a') as file:
                file.write(f'{json.dumps(row)}\n')
            print(_line(row), flush=True)
        rows.append(row)
    print(_table(rows))
    sys.exit(any(map(_is_bad, rows)))


def _read(results: Path) -> dict[str, dict]:
    """Return fault -> its row, of an earlier start."""
    if not results.is_file():
        return {}
    rows = []
    for line in results.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # cut
            continue
    return {row['key']: row for row in rows}


def _is_bad(row: dict) -> bool:
    return not row['recovered'] or row['lost'] > 0 or bool(row['differences'])


def _line(row: dict) -> str:
    state = 'recovered' if row['recovered'] else f'NOT RECOVERED: {row.get("again")}'
    different = f', {len(row["differences"])} differences' if row['differences'] else ''
    return (
        f'{row["key"]}: {state}, {row["lost"]} samples lost{different} '
        f'({row["seconds"]:.0f} s) {json.dumps(row.get("told"))}'
    )


def _table(rows: list[dict]) -> str:
    """Return the table in Markdown."""
    lines = ['| fault | tried | recovered | samples lost | differences |', '|---|---|---|---|---|']
    groups = {kind: [row for row in rows if row['kind'] == kind] for kind in KINDS}
    for kind, group in {**groups, '**all**': rows}.items():
        lost, different = (
            sum(row['lost'] for row in group),
            sum(len(row['differences']) for row in group),
        )
        recovered = sum(row['recovered'] for row in group)
        lines.append(f'| {kind} | {len(group)} | {recovered} | {lost} | {different} |')
    return '\n'.join(lines)


def _commit() -> str:
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return f'commit {found.stdout.strip() or "unknown"}'


if __name__ == '__main__':
    main()
