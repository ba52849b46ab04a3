"""Print a table of two evaluations: ``python tools/compare_metrics.py BEFORE.json AFTER.json``."""

import argparse
from pathlib import Path

from mtp.files import read_figures


def table(before: dict[str, float], after: dict[str, float]) -> str:
    """Return a row per data set and a column per task, in percent; ``-`` without figures."""
    from mtp.evaluation.multitask_metric import TASKS, columns

    averaged = columns(TASKS, 'averaged')
    datasets = dict.fromkeys(name.rsplit('/', 2)[0] for name in after if name.endswith(averaged))
    rows = [['', *averaged]]
    for dataset in datasets:
        cells = []
        for metric in averaged:
            name = f'{dataset}/{metric}'
            cells.append(f'{before[name]:.2f} -> {after[name]:.2f}' if name in after else '-')
        rows.append([dataset, *cells])
    rows.append(['average', f'{before["average"]:.2f} -> {after["average"]:.2f}'])
    return '\n'.join(
        f'{first:<10}' + ''.join(f'{cell:>22}' for cell in cells) for first, *cells in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('before', type=Path, help='a metrics.json of tools/test.py')
    parser.add_argument('after', type=Path, help='another one, of the same config')
    args = parser.parse_args()
    print(table(read_figures(args.before), read_figures(args.after)))


if __name__ == '__main__':
    main()
