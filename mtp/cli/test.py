"""Evaluate a model: ``mtp test CONFIG work_dirs/<name>/iter_80000.pth``.

Prints the metrics and writes them to ``<work dir>/metrics.json``, and with ``--report`` to a page.
"""

import argparse
from collections.abc import Sequence

from mtp.cli.arguments import add_run_arguments, parse_run_arguments, run_options
from mtp.cli.errors import users_errors
from mtp.cli.own_gpu import choose_device
from mtp.cli.threads import sleep_while_waiting


def parse_args(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_arguments(parser)
    parser.add_argument(
        'checkpoint',
        help='a checkpoint of training, or the word "untrained" for the model '
        'as training would start it',
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='folder for pictures of predictions beside the ground truth',
    )
    parser.add_argument(
        '--report',
        metavar='DIR',
        help='folder for report.html: one page with the metrics, confusion, curves, calibration, '
        'and the best and worst images',
    )
    parser.add_argument(
        '--submission',
        metavar='DIR',
        help="where a benchmark's server keeps the labels: folder for the predictions, "
        'in the format of the server',
    )
    args = parse_run_arguments(parser, arguments)
    if args.report and args.submission:
        parser.error('--report compares with labels, which the server of --submission keeps')
    if args.report and args.launcher != 'none':
        parser.error('--report counts in one process: leave out --launcher')
    return args


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    sleep_while_waiting()
    args = parse_args(arguments, prog)
    with users_errors(args.debug):
        evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate as the command line says."""
    choose_device(args.device, args.launcher)  # before torch starts
    from mtp.cli import launch
    from mtp.cli.config import override, set_submission
    from mtp.cli.processes import leave_processes
    from mtp.engine.devices import require_usable_gpu
    from mtp.engine.shards import read_entries
    from mtp.models.weights.loading import check_state

    require_usable_gpu(args.device)
    cfg = launch.load_config(run_options(args))
    cfg.resume = False
    cfg.load_from = None if args.checkpoint == 'untrained' else args.checkpoint
    # before anything is written: a file that cannot be used leaves nothing behind
    entries = read_entries(cfg.load_from) if cfg.load_from else {}
    set_submission(cfg, args.submission)
    if args.show_dir:
        if 'visualization' not in cfg.default_hooks:
            raise ValueError('--show-dir: the hooks of this config draw nothing; leave it out')
        override(cfg, {'default_hooks.visualization.out_dir': args.show_dir})
    if args.report:
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='mtp.engine.ReportHook', out_dir=args.report),
        ]
    runner = launch.build_runner(cfg)
    model = runner.bare_model
    if cfg.load_from is None:
        model.init_weights()  # type: ignore[operator]  # a method of mmengine's BaseModule
    else:
        check_state(model, entries, cfg.load_from)
    launch.evaluate(runner)
    leave_processes()
