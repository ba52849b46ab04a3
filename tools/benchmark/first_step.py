"""Time everything between a command and the end of its first training step, by part.

    python tools/benchmark/first_step.py --model vit_b_rvsa --cache DIR [--images N] [--json FILE]

Run it twice with the same ``--cache``. With an empty folder it compiles everything (cold); the
second time it finds everything there (warm). ``--compile on`` compiles on a CPU too.
"""

import argparse
import os
import time
from pathlib import Path

from training.recipes import RECIPES, image_size

from mtp.cli.arguments import add_device
from mtp.cli.errors import users_errors
from mtp.cli.own_gpu import choose_device
from mtp.files import json_text

STARTED = time.perf_counter()


def main() -> None:
    options = parse()
    os.environ['TORCHINDUCTOR_CACHE_DIR'] = str(options.cache.absolute())
    warm = options.cache.is_dir() and any(options.cache.iterdir())

    with users_errors():
        choose_device(options.device)  # before torch starts
        from mtp.engine.devices import require_usable_gpu

        require_usable_gpu(options.device)
    import mtp  # noqa: F401  (gives mmcv its operators)

    # isort: split
    import torch
    from training import jobs, measure
    from training.batches import make_samples

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    cfg = jobs.load_recipe(
        options.model,
        options.size or image_size(options.model),
        {'default_hooks.compilation.mode': options.compile},
    )
    report = {
        'model': options.model,
        'device': str(device),
        'cache': 'warm' if warm else 'cold',
        'import_s': time.perf_counter() - STARTED,
    }
    job = jobs.ours(cfg, device)
    samples = make_samples(jobs.num_classes(cfg), options.images, 23, cfg.model.backbone.img_size)
    report |= {
        'build_s': job.build_seconds,
        'first_step_s': measure.first_step(job, job.collate(samples), device) - job.build_seconds,
    }
    begun = time.perf_counter()
    job.step(job.collate(samples))
    measure.wait(device)
    report['second_step_s'] = time.perf_counter() - begun
    report['in_all_s'] = time.perf_counter() - STARTED - report['second_step_s']
    report['parts_s'] = {name: sum(kind.seconds) for name, kind in job.kinds.items()}
    report['failed'] = [name for name, kind in job.kinds.items() if kind.failed]

    print(
        f'{options.model} on {device}, {report["cache"]} cache: {report["in_all_s"]:.1f} s from '
        'the command to the end of the first step'
    )
    for key in ('import_s', 'build_s', 'first_step_s', 'second_step_s'):
        print(f'  {key:<28}{report[key]:8.1f}')
    for name, seconds in sorted(report['parts_s'].items(), key=lambda item: -item[1]):
        print(f'    {name:<40}{seconds:8.1f}{"  FAILED" if name in report["failed"] else ""}')
    if options.json:
        options.json.write_text(json_text(report, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', choices=RECIPES, required=True)
    parser.add_argument('--cache', type=Path, required=True, help='folder for compiled code')
    parser.add_argument('--images', type=int, default=2, help='images per data set; at least 2')
    parser.add_argument(
        '--size', type=int, help='side of an image, pixels; default: 448, for tiny models 128'
    )
    parser.add_argument('--compile', choices=('auto', 'on', 'off'), default='auto')
    parser.add_argument('--json', type=Path, help='file to write all figures to')
    add_device(parser)
    return parser.parse_args()


if __name__ == '__main__':
    main()
