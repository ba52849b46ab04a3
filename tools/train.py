"""Train a model: ``python tools/train.py configs/pretrain/vit-tiny-rvsa_demo.py``."""
import argparse

from mtp.engine import launch


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_arguments(parser)
    parser.add_argument('--resume', nargs='?', const='last', metavar='CKPT',
                        help='go on from this checkpoint, or from the last one of the work dir')
    parser.add_argument('--amp', action='store_true', help='train in bfloat16')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with launch.users_errors():
        cfg = launch.load_config(args)
        if args.amp:
            launch.use_mixed_precision(cfg)
        if args.resume:
            cfg.resume = True
            cfg.load_from = str(launch.last_checkpoint(cfg.work_dir) if args.resume == 'last'
                                else args.resume)
    runner = launch.build_runner(cfg)
    if args.resume:
        with launch.users_errors():
            launch.check_checkpoint(launch.unwrap(runner.model), cfg.load_from)
    runner.train()


if __name__ == '__main__':
    main()
