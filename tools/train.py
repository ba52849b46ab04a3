"""Train a model: ``python tools/train.py configs/pretrain/vit_tiny_rvsa_demo.py``."""

import argparse

from mtp.cli.arguments import add_run_arguments, run_options
from mtp.cli.errors import file_errors, users_errors
from mtp.cli.own_gpu import show_own_gpu
from mtp.cli.threads import sleep_while_waiting


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='last',
        metavar='CKPT',
        help='continue from this checkpoint, or from the last one in the work dir',
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
    return parser.parse_args()


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


def main() -> None:
    sleep_while_waiting()
    args = parse_args()
    show_own_gpu(args.launcher)  # before torch starts
    import torch

    from mtp.cli import launch
    from mtp.cli.config import check_deterministic, override
    from mtp.cli.processes import leave_processes, number_of_processes
    from mtp.cli.resume import checkpoint_to_resume, go_on_under_old_name
    from mtp.engine import TraceHook
    from mtp.engine.batch_size import share_batch
    from mtp.engine.devices import require_usable_gpu
    from mtp.engine.shards import check_checkpoint

    # What stays in float32 under autocast may take TF32; torch allows it to convolutions by itself.
    torch.set_float32_matmul_precision('high')
    with users_errors():
        require_usable_gpu()
        cfg = launch.load_config(run_options(args))
        chosen = {'optim_wrapper.amp': args.amp, 'default_hooks.compilation.mode': args.compile}
        override(cfg, {key: value for key, value in chosen.items() if value})
        if args.deterministic:
            cfg.randomness = dict(cfg.get('randomness', {}), deterministic=True)
        check_deterministic(cfg)
        if args.profile:
            start, stop = args.profile
            cfg.custom_hooks = [
                *cfg.get('custom_hooks', []),
                dict(type=TraceHook, start=start, stop=stop),
            ]
        if args.images_per_gpu is not None:
            cfg.images_per_gpu = args.images_per_gpu
        division = share_batch(cfg, number_of_processes(cfg.launcher), args.cfg_options)
        moved = go_on_under_old_name(cfg) if args.resume == 'last' else None
        checkpoint = checkpoint_to_resume(cfg, args.resume)
        if checkpoint:
            cfg.resume, cfg.load_from = True, str(checkpoint)
    with file_errors():
        runner = launch.build_runner(cfg)
    for line in filter(None, (division, moved)):
        runner.logger.info(line)
    if checkpoint:
        with users_errors():
            check_checkpoint(runner.bare_model, cfg.load_from)
    with file_errors():
        runner.train()
    leave_processes()


if __name__ == '__main__':
    main()
