"""Evaluate a released finetuned checkpoint and compare its figure with the published one.

    python tools/reproduce.py levir vit_b_rvsa --checkpoint levir_vit_b.pth --data data/levir

--data is a folder made by tools/data/prepare.py. Where the benchmark's server keeps the labels of
the test split, the submission is written instead. Data sets, models, figures: docs/model_zoo.md.
"""

import argparse
from pathlib import Path

from mtp.cli.arguments import RunOptions, add_config_options, add_device
from mtp.cli.errors import add_debug, users_errors
from mtp.cli.own_gpu import choose_device
from mtp.cli.threads import sleep_while_waiting


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', help='a folder of configs/finetune/<task>, e.g. levir')
    parser.add_argument('model', help='a config of that folder, e.g. vit_b_rvsa')
    parser.add_argument('--checkpoint', type=Path, required=True, metavar='CKPT')
    parser.add_argument(
        '--data', type=Path, required=True, metavar='DIR', help='the prepared data set'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder for the log, metrics.json and the '
        'submission; default: work_dirs/reproduce/<data set>/<model>',
    )
    add_device(parser)
    add_config_options(parser)
    add_debug(parser)
    return parser.parse_args()


def main() -> None:
    sleep_while_waiting()
    args = parse_args()
    with users_errors(args.debug):
        reproduce(args)


def reproduce(args: argparse.Namespace) -> None:
    """Evaluate, and print the figures."""
    choose_device(args.device)  # before torch starts
    from mtp.cli import launch
    from mtp.cli.config import set_submission
    from mtp.engine.devices import require_usable_gpu
    from mtp.models.weights.finetuned import load_released
    from mtp.recipes import table
    from mtp.recipes.reproduce import compare

    require_usable_gpu(args.device)
    config = table.config_of(args.dataset, args.model)
    work_dir = args.work_dir or Path('work_dirs/reproduce', args.dataset, args.model)
    if not args.data.is_dir():
        raise FileNotFoundError(
            f'no folder {args.data}: prepare the data set with tools/data/prepare.py'
        )
    cfg = launch.load_config(RunOptions(config, work_dir, cfg_options=args.cfg_options))
    table.set_data_root(cfg, args.data)
    results = table.read_results()[args.dataset]
    set_submission(cfg, None if results.key else str(work_dir / 'submission'))
    runner = launch.build_runner(cfg)
    changes = load_released(runner.bare_model, args.checkpoint)
    metrics = launch.evaluate(runner)

    lines = [
        f'{table.title(args.dataset)}, {args.model}, {args.checkpoint} on {args.data}, in percent',
        *changes,
    ]
    if results.key:
        lines.append(compare(results, args.model, metrics))
    else:
        published = results.published.get(args.model)
        lines.append(
            "The benchmark's server keeps the labels: send in the zip in "
            f'{work_dir / "submission"}. Published: '
            + (f'{published:.2f} ({results.metric})' if published else 'none')
        )
    lines += [f'Doubt: {results.doubt}'] * bool(results.doubt) + [results.note] * bool(results.note)
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
