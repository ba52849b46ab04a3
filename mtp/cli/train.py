"""Train a model: ``mtp train configs/pretrain/vit_tiny_rvsa_demo.py``."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.cli.arguments import (
    add_bands,
    add_form,
    add_run_arguments,
    parse_run_arguments,
    run_options,
)
from mtp.cli.errors import users_errors
from mtp.cli.own_gpu import choose_device
from mtp.cli.threads import sleep_while_waiting
from mtp.signals import Stopped, StopSignals

if TYPE_CHECKING:
    from mtp.cli.own_training import Request

# Arguments that say something of the data, not of a config.
WITH_DATA = (
    'encoder',
    'weights',
    'task',
    'keep_empty',
    'format',
    'class_column',
    'bands',
    'stretch',
)


def parse_args(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog, description=__doc__)
    add_run_arguments(parser, needs_config=False)
    parser.add_argument(
        '--data',
        type=Path,
        nargs='+',
        metavar='DIR',
        help='instead of a config: a folder of images and labels in any common form, or a '
        'data.yaml; several pretrain together. The config is written into the work dir',
    )
    parser.add_argument('--encoder', metavar='NAME', help='with --data: a backbone')
    parser.add_argument(
        '--weights',
        metavar='NAME|PATH|none',
        help="with --data: the encoder's weights; default: mtp, else mae",
    )
    parser.add_argument('--task', help='with --data: the task, if not that of the labels')
    parser.add_argument(
        '--keep-empty',
        action='store_true',
        help='with --data: train on images without objects too',
    )
    add_form(parser)
    add_bands(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='last',
        metavar='CKPT',
        help='continue from this checkpoint, or from the newest undamaged one in the work dir; '
        'auto: continue if there is one, otherwise start',
    )
    parser.add_argument(
        '--amp',
        choices=('auto', 'on', 'off'),
        help="bfloat16 autocast; auto, the configs' value: on GPUs that compute in bfloat16",
    )
    parser.add_argument(
        '--compile',
        choices=('auto', 'on', 'off'),
        help='torch.compile of blocks, targets and losses; auto: on GPUs',
    )
    parser.add_argument(
        '--graphs',
        choices=('auto', 'on', 'off'),
        help='training steps as CUDA graphs; auto: pretraining and what has steps of few shapes, '
        'with one GPU',
    )
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='add gradients in a fixed order, more slowly: runs repeat to the bit on a GPU too',
    )
    parser.add_argument(
        '--profile',
        type=iteration_range,
        metavar='START:STOP',
        help='write a trace of these iterations into the work dir, e.g. 100:105',
    )
    parser.add_argument(
        '--images-per-gpu',
        type=int,
        metavar='N',
        help="at most N images at once on a GPU; the batch of a step stays the config's, "
        'gradients are summed',
    )
    parser.add_argument(
        '--replay',
        type=Path,
        metavar='FILE',
        help='train to an update that went wrong once more, and name the first module whose '
        'numbers are not finite; FILE: <work dir>/bad_updates/iter_<N>.json. Needs no config',
    )
    args = parse_run_arguments(parser, arguments)
    if sum(given is not None for given in (args.config, args.data, args.replay)) != 1:
        parser.error('give a config, --data DIR, or --replay FILE')
    if args.data and args.encoder is None:
        parser.error('--data needs --encoder, e.g. --encoder vit_b_rvsa')
    given = [name for name in WITH_DATA if getattr(args, name)]
    if not args.data and given:
        parser.error(f'--{given[0].replace("_", "-")} goes with --data')
    if args.replay and (args.resume or args.work_dir):
        parser.error('--replay FILE goes without --resume and --work-dir')
    return args


def iteration_range(text: str) -> tuple[int, int]:
    """Parse ``'START:STOP'``, START below STOP.

    Raises:
        argparse.ArgumentTypeError: ``text`` has another form.
    """
    start, _, stop = text.partition(':')
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not START:STOP, e.g. 100:105 for the five iterations from the 100th on'
        )
    return int(start), int(stop)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    sleep_while_waiting()
    args = parse_args(arguments, prog)
    with users_errors(args.debug), StopSignals() as stop_signals:
        try:
            train(args, stop_signals)
        except Stopped:
            from mtp.cli.processes import leave_processes

            leave_processes()
            raise


def train(args: argparse.Namespace, stop_signals: StopSignals) -> None:
    """Train as the command line says."""
    choose_device(args.device, args.launcher)  # before torch starts
    import torch

    from mtp.cli import launch, replay
    from mtp.cli.config import check_deterministic, override
    from mtp.cli.processes import leave_processes, number_of_processes
    from mtp.cli.resume import go_on_under_old_name, start
    from mtp.cli.schedule import follow_length
    from mtp.cli.trackers import add_tracker
    from mtp.engine.batch_size import share_batch
    from mtp.engine.devices import require_usable_gpu
    from mtp.engine.shards import check_checkpoint

    # What stays in float32 under autocast may take TF32; torch allows it to convolutions by itself.
    torch.set_float32_matmul_precision('high')
    require_usable_gpu(args.device)
    update = replay.begin(args) if args.replay else None
    if args.data:
        _write_own_config(args)
    cfg = launch.load_config(run_options(args))
    chosen = {
        'optim_wrapper.amp': args.amp,
        'default_hooks.compilation.mode': args.compile,
        'default_hooks.capture.mode': args.graphs,
    }
    override(cfg, {key: value for key, value in chosen.items() if value})
    scaled = follow_length(cfg, args.cfg_options)
    if args.deterministic:
        cfg.randomness = dict(cfg.get('randomness', {}), deterministic=True)
    check_deterministic(cfg)
    add_tracker(cfg)
    if args.profile:
        begin, end = args.profile
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='mtp.engine.TraceHook', start=begin, stop=end),
        ]
    if args.images_per_gpu is not None:
        cfg.images_per_gpu = args.images_per_gpu
    share_batch(cfg, number_of_processes(cfg.launcher), args.cfg_options)
    moved = go_on_under_old_name(cfg) if args.resume in ('last', 'auto') else None
    with ExitStack() as stack:
        begun = stack.enter_context(start(cfg, args.resume))
        stop_signals.at_exit.append(stack.close)
        if begun.checkpoint:
            cfg.resume, cfg.load_from = True, begun.checkpoint
        if update:
            replay.without_traces(cfg, update)
        runner = launch.build_runner(cfg)
        for line in filter(None, (scaled, moved, *begun.lines)):
            runner.say(line)
        if begun.checkpoint:
            check_checkpoint(runner.bare_model, cfg.load_from)
        try:
            runner.train()
        except replay.ReplayEndedError as ended:
            runner.logger.info(ended)
    leave_processes()


def _write_own_config(args: argparse.Namespace) -> None:
    """Write the config of ``--data``, and let the run read it."""
    from mtp.cli.own_training import own_config

    args.config, args.work_dir, lines = own_config(own_request(args))
    print(*lines, sep='\n', flush=True)


def own_request(args: argparse.Namespace) -> 'Request':
    """Return what parsed arguments of ``--data`` ask for."""
    from mtp.cli.own_training import Request
    from mtp.data.own.importing import Options

    return Request(
        data=args.data,
        encoder=args.encoder,
        weights=args.weights,
        task=args.task,
        form=args.format,
        class_column=args.class_column,
        options=Options(bands=args.bands, stretch=args.stretch),
        work_dir=args.work_dir,
        launcher=args.launcher,
        keep_empty=args.keep_empty,
    )
