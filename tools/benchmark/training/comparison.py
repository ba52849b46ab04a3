"""The measurements of ``train.py``: our recipe's step and the paper's, in turn."""

import argparse
import datetime
import shlex
import sys
from collections.abc import Callable
from typing import Any

import torch
from operators.timing import ceilings, describe

from mtp.cli.config import override
from mtp.cli.errors import users_errors
from mtp.engine import flops
from mtp.engine.cuda_graphs import CUDAGraphs
from mtp.files import json_text
from training import jobs, loaders, measure, profiling, tables
from training.batches import make_samples
from training.jobs import Job

Report = dict[str, Any]


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for; print the report and write it."""
    device = torch.device(options.device)
    with users_errors():
        cfg = jobs.load_recipe(options.model, options.size, options.cfg_options)
        chosen = {
            'optim_wrapper.amp': options.amp,
            'default_hooks.compilation.mode': options.compile,
        }
        override(cfg, {key: value for key, value in chosen.items() if value})
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark
    classes = jobs.num_classes(cfg)

    def make(
        images: int = options.images, objects: int = options.objects, **settings
    ) -> list[dict]:
        return make_samples(classes, images, objects, options.size, **settings)

    samples = make()
    report = {
        'command': shlex.join(['python', 'tools/benchmark/train.py', *sys.argv[1:]]),
        'device': describe(device),
        'torch': torch.__version__,
        'date': datetime.date.today().isoformat(),
        'model': options.model,
        'size': options.size,
        'images': options.images * len(classes),
        'objects': options.objects,
        'repeats': options.repeats,
        'ceilings': ceilings(device, tiny=options.repeats == 0),
    }

    ours = jobs.ours(cfg, device)
    running = [ours]
    if not options.only_ours:
        running += jobs.papers(cfg, device, ours.model.state_dict())
        report['losses'] = compare_losses(*running[:2], make(distort=False))
    rows = report['jobs'] = {
        job.name: {
            'dtype': str(job.dtype).removeprefix('torch.'),
            'first_step_s': measure.first_step(job, job.collate(samples), device),
        }
        for job in running
    }
    if options.repeats:
        timed = measure.timed_steps(running, [samples, make(seed=1)], options.repeats, device)
        for name, row in timed.items():
            rows[name] |= row
        # The better of two: other programs may use the machine.
        again = ceilings(device, tiny=False)
        report['ceilings'] = {
            key: max(rate, again[key]) for key, rate in report['ceilings'].items()
        }
    more = {
        'twice_images': make(images=2 * options.images),
        'twice_objects': make(objects=2 * options.objects),
    }
    for job in running:
        # C computes the same as A, in another dtype
        rows[job.name] |= (
            {key: rows['A'][key] for key in ('gflop', 'backbone_gflop')}
            if job.name == 'C'
            else counts(job, samples, more, device)
        )
        rows[job.name]['saved_mb'] = measure.saved_bytes(job, job.collate(samples)) / 1e6
        rows[job.name] |= rates(rows, job.name, report)
    if options.loader:
        report['loader'] = {
            'ours': loaders.ours(cfg, options.loader, options.images, options.repeats, device)
        }
        if len(running) > 1:
            report['loader']['A'] = loaders.papers(
                running[1], cfg, options.loader, options.images, options.repeats, device
            )
    if options.memory:
        report['largest_batch'] = {
            'recomputing' if again else 'plain': largest(ours, again, make, options.memory, device)
            for again in (False, True)
        }
    if options.profile:
        report['profile'] = profiling.profile_step(ours, ours.collate(samples), device)
        report['profile'].pop('trace').export_chrome_trace(str(options.profile))
    failed = None
    if options.graphs:  # last, since the model's step is another one afterwards
        batches = [samples, make(seed=1)]
        try:
            report['captured'] = measure.captured_steps(
                ours, batches, options.repeats, CUDAGraphs(), device
            )
        except RuntimeError as error:
            failed = str(error)
    print(tables.text(report))
    if options.profile:
        print(f'\n{profiling.summary(report["profile"])}')
    if options.json:
        options.json.write_text(json_text(report, indent=1))
    if failed:
        raise SystemExit(f'captured steps: {failed}')


def compare_losses(ours: Job, a: Job, samples: list[dict]) -> Report:
    """Return both sums of the losses without randomness, and the term that differs most."""
    found = [jobs.losses(job, samples) for job in (ours, a)]
    apart = {name: abs(found[0][name] - value) for name, value in found[1].items()}
    worst = max(apart, key=apart.get)
    return {
        'ours': found[0]['loss'],
        'A': found[1]['loss'],
        'worst_term': worst,
        'worst_difference': apart[worst],
    }


def counts(
    job: Job, samples: list[dict], more: dict[str, list[dict]], device: torch.device
) -> Report:
    """Count the operations and launches of a step."""
    inputs = torch.randn(len(samples), *samples[0]['inputs'].shape, device=device)
    batch = job.collate(samples)

    def backbone() -> None:
        with job.context():
            maps = job.model.backbone(inputs)
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

    row = {
        'gflop': flops.count(lambda: job.step(batch)) / 1e9,
        'backbone_gflop': flops.count(backbone) / 1e9,
    }
    job.optimizer.zero_grad()
    row['launches'] = {
        name: measure.launches(job, job.collate(one), device)
        for name, one in {'as_asked': samples, **more}.items()
    }
    return row


def rates(rows: dict[str, Report], name: str, report: Report) -> Report:
    """Return the rates and ratios that follow from a job's measurements."""
    row, images = rows[name], report['images']
    found = {
        'saved_mb_per_image': row['saved_mb'] / images,
        'gflop_per_image': row['gflop'] / images,
        'backbone_gflop_per_image': row['backbone_gflop'] / images,
    }
    if 'step' in row:
        rate = row['gflop'] / row['step']
        found |= {
            'images_s': images / row['step'] * 1e3,
            'tflop_s': rate,
            'utilisation': rate / report['ceilings'][f'{row["dtype"]}_tflop_s'],
            'times_as_fast_as': {other: rows[other]['step'] / row['step'] for other in rows},
        }
    return found


def largest(
    job: Job, again: bool, make: Callable[[int], list[dict]], gigabytes: float, device: torch.device
) -> int:
    """Return how many images of all data sets fit; ``again``: with activation recomputation."""
    with measure.recomputing(job.model.backbone, again):
        fits = measure.largest_batch(
            job, lambda images: job.collate(make(images)), gigabytes, device
        )
    return fits * len(job.model.datasets)
