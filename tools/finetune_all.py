"""Finetune on every data set, test, and show all results in one table.

    python tools/finetune_all.py --smoke    # synthetic copies of the data, tiny models, on a CPU
    python tools/finetune_all.py            # the real recipes, of the data sets in data/

With --smoke it makes a synthetic copy of each data set in its publisher's layout, prepares it,
trains on it, and tests or writes a submission: every config, in some minutes. Each step is a
command that you can also run by hand; the logs name it. Failures are listed at the end, and the
exit code is then 1. Started again after an interruption, it skips finished work.
"""

import argparse
import sys
import time
from pathlib import Path

from mtp import resources
from mtp.cli.arguments import add_device
from mtp.cli.errors import add_debug, users_errors
from mtp.cli.own_gpu import choose_device
from mtp.cli.threads import sleep_while_waiting

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    configs = list((resources.configs() / 'finetune').glob('*/*/*.py'))
    datasets, models = (
        sorted(set(names))
        for names in ((path.parent.name for path in configs), (path.stem for path in configs))
    )
    parser.add_argument('--smoke', action='store_true', help='small runs on synthetic data')
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        choices=datasets,
        help=f'data sets to run (default: all): {", ".join(datasets)}',
    )
    parser.add_argument(
        '--models',
        nargs='+',
        metavar='MODEL',
        choices=models,
        help=f'of {", ".join(models)}; default: vit_b_rvsa, and with --smoke all',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/smoke'),
        help='folder for small runs (default: %(default)s)',
    )
    add_device(parser)
    add_debug(parser)
    return parser.parse_args()


def main() -> None:
    sleep_while_waiting()
    args = parse_args()
    begin = time.perf_counter()
    with users_errors(args.debug):
        choose_device(args.device)  # before torch starts
        from mtp.cli import finetuning
        from mtp.engine.devices import require_usable_gpu

        require_usable_gpu(args.device)
        failed = (
            finetuning.run_small(TOOLS, args.only, args.models, args.work_dir)
            if args.smoke
            else finetuning.run(TOOLS, args.only, args.models)
        )
    print(f'{time.perf_counter() - begin:.0f} seconds in all')
    for row in failed:
        print(f'failed: {row["dataset"]} {row["model"]}: {row["error"]}', file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
