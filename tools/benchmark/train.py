"""Time the pretraining step of a model against the paper's structure, in one run.

    python tools/benchmark/train.py --model vit_l_rvsa [--device cuda|cpu] [--json FILE]
        [--images N] [--objects N] [--size PIXELS] [--repeats N] [--amp auto|on|off]
        [--compile auto|on|off] [--cfg-options KEY=VALUE ...] [--only-ours] [--loader DIR]
        [--memory GB] [--profile FILE]

``ours`` is the recipe of ``configs/pretrain``, ``A`` the paper's structure in float32 (see
``paper.py``), ``C`` is A under bfloat16 autocast; they take turns on the same batches in memory.
Utilisation is of the operations counted in a step, those that torch and ``mtp.engine.flops`` have
formulas for, against the matrix products that the device reaches in the job's precision. ``saved``
is what the forward pass keeps for the backward pass. Launches and waits of the host are counted on
three batches: as asked for, with twice the images and with twice the objects. ``--repeats 0``
counts only, which a CPU can do for the large models. ``--loader`` also trains from files: ours by
the runner with the recipe's workers, A with its transforms in the main process.
"""
import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)

# isort: split
import jobs
import loaders
import measure
import profiling
import tables
from batches import make_samples
from jobs import RECIPES, Job
from mmengine.config import DictAction
from ops import ceilings, describe

from mtp.engine import flops, launch

Report = dict[str, Any]


def main(args: list[str] | None = None) -> int:
    options = parse(args)
    device = torch.device(options.device)
    with launch.users_errors():
        cfg = jobs.load_recipe(options.model, options.size, options.cfg_options)
        chosen = {'optim_wrapper.amp': options.amp,
                  'default_hooks.compilation.mode': options.compile}
        launch.override(cfg, {key: value for key, value in chosen.items() if value})
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark
    classes = jobs.num_classes(cfg)

    def make(images: int = options.images, objects: int = options.objects, **settings
             ) -> list[dict]:
        return make_samples(classes, images, objects, options.size, **settings)

    samples = make()
    report = {
        'command': shlex.join(['python', 'tools/benchmark/train.py', *(args or sys.argv[1:])]),
        'device': describe(device), 'torch': torch.__version__,
        'date': datetime.date.today().isoformat(), 'model': options.model, 'size': options.size,
        'images': options.images * len(classes), 'objects': options.objects,
        'repeats': options.repeats, 'ceilings': ceilings(device, tiny=options.repeats == 0)}

    ours = jobs.ours(cfg, device)
    running = [ours]
    if not options.only_ours:
        running += jobs.papers(cfg, device, ours.model.state_dict())
        report['losses'] = compare_losses(*running[:2], make(distort=False))
    rows = report['jobs'] = {
        job.name: {'dtype': str(job.dtype).removeprefix('torch.'),
                   'first_step_s': measure.first_step(job, job.collate(samples), device)}
        for job in running}
    if options.repeats:
        timed = measure.timed_steps(
            running, [samples, make(seed=1)], options.repeats, device)
        for name, row in timed.items():
            rows[name] |= row
        again = ceilings(device, tiny=False)  # the better of two: others may use the machine
        report['ceilings'] = {key: max(rate, again[key])
                              for key, rate in report['ceilings'].items()}
    more = {'twice_images': make(images=2 * options.images),
            'twice_objects': make(objects=2 * options.objects)}
    for job in running:
        # C is A with other numbers: it computes the same
        rows[job.name] |= ({key: rows['A'][key] for key in ('gflop', 'backbone_gflop')}
                           if job.name == 'C' else counts(job, samples, more, device))
        rows[job.name]['saved_mb'] = measure.saved_bytes(job, job.collate(samples)) / 1e6
        rows[job.name] |= rates(rows, job.name, report)
    if options.loader:
        report['loader'] = {'ours': loaders.ours(cfg, options.loader, options.images,
                                                 options.repeats, device)}
        if len(running) > 1:
            report['loader']['A'] = loaders.papers(
                running[1], cfg, options.loader, options.images, options.repeats, device)
    if options.memory:
        report['largest_batch'] = {
            'recomputing' if again else 'plain': largest(ours, again, make, options.memory, device)
            for again in (False, True)}
    print(tables.text(report))
    if options.profile:
        report['profile'] = profiling.profile_step(ours, ours.collate(samples), device)
        report['profile'].pop('trace').export_chrome_trace(str(options.profile))
        print(f'\n{profiling.summary(report["profile"])}')
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', choices=RECIPES, required=True)
    parser.add_argument('--device', choices=('cuda', 'cpu'),
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', type=Path, help='where to write all figures')
    parser.add_argument('--images', type=int, default=2, help='per data set; at least 2')
    parser.add_argument('--objects', type=int, default=23, help='per image')
    parser.add_argument('--size', type=int, help='of an image; default: 448, for tiny models 128')
    parser.add_argument('--repeats', type=int, help='of a step; default: 20, on a CPU 5')
    parser.add_argument('--amp', choices=('auto', 'on', 'off'), help='as in tools/train.py')
    parser.add_argument('--compile', choices=('auto', 'on', 'off'), help='as in tools/train.py')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        metavar='KEY=VALUE', help='change our recipe, as in tools/train.py')
    parser.add_argument('--only-ours', action='store_true', help='leave A and C out')
    parser.add_argument('--loader', type=Path, metavar='DIR',
                        help='also train from SAMRS there, or what tools/data/make_synthetic.py '
                        'made')
    parser.add_argument('--memory', type=float, metavar='GB',
                        help='also find the largest batch that fits this much GPU memory')
    parser.add_argument('--profile', type=Path, metavar='FILE',
                        help='also write the trace of a step there and print its summary')
    options = parser.parse_args(args)
    options.size = options.size or (128 if RECIPES[options.model][1] else 448)
    if options.repeats is None:
        options.repeats = 5 if options.device == 'cpu' else 20
    if options.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch finds no GPU here')
    if options.memory and options.device == 'cpu':
        parser.error('--memory is of a GPU')
    if options.loader and options.repeats == 0:
        parser.error('--loader measures times: leave out --repeats 0')
    if options.images < 2:
        parser.error('--images: the paper\'s batch norm needs 2 images of each data set')
    return options


def compare_losses(ours: Job, a: Job, samples: list[dict]) -> Report:
    """Sums of the losses with nothing left to chance, and the term in which they differ most."""
    found = [jobs.losses(job, samples) for job in (ours, a)]
    apart = {name: abs(found[0][name] - value) for name, value in found[1].items()}
    worst = max(apart, key=apart.get)
    return {'ours': found[0]['loss'], 'A': found[1]['loss'], 'worst_term': worst,
            'worst_difference': apart[worst]}


def counts(job: Job, samples: list[dict], more: dict[str, list[dict]], device: torch.device
           ) -> Report:
    """Operations and launches."""
    inputs = torch.randn(len(samples), *samples[0]['inputs'].shape, device=device)
    batch = job.collate(samples)

    def backbone() -> None:
        with job.context():
            maps = job.model.backbone(inputs)
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

    row = {'gflop': flops.count(lambda: job.step(batch)) / 1e9,
           'backbone_gflop': flops.count(backbone) / 1e9}
    job.optimizer.zero_grad()
    row['launches'] = {name: measure.launches(job, job.collate(one), device)
                       for name, one in {'as_asked': samples, **more}.items()}
    return row


def rates(rows: dict[str, Report], name: str, report: Report) -> Report:
    """What follows from a job's measurements."""
    row, images = rows[name], report['images']
    found = {'saved_mb_per_image': row['saved_mb'] / images,
             'gflop_per_image': row['gflop'] / images,
             'backbone_gflop_per_image': row['backbone_gflop'] / images}
    if 'step' in row:
        rate = row['gflop'] / row['step']
        found |= {
            'images_s': images / row['step'] * 1e3, 'tflop_s': rate,
            'utilisation': rate / report['ceilings'][f'{row["dtype"]}_tflop_s'],
            'times_as_fast_as': {other: rows[other]['step'] / row['step'] for other in rows}}
    return found


def largest(job: Job, again: bool, make: Callable[[int], list[dict]], gigabytes: float,
            device: torch.device) -> int:
    """Images, of all data sets, that fit; ``again``: with activations computed again."""
    with measure.recomputing(job.model.backbone, again):
        fits = measure.largest_batch(
            job, lambda images: job.collate(make(images)), gigabytes, device)
    return fits * len(job.model.datasets)


if __name__ == '__main__':
    sys.exit(main())
