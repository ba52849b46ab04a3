"""Finetuning on all data sets, for ``tools/finetune_all.py``."""

import importlib
import json
import math
import multiprocessing
import os
import runpy
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mtp.cli.config import default_work_dir
from mtp.cli.resume import last_checkpoint
from mtp.files import read_figures, write_json
from mtp.recipes import shrink, table
from mtp.registry import DATASETS
from mtp.visualization.curves import read_scalars

# Small runs: image side in pixels by the library that trains, and minimum number of steps.
SIDES, STEPS = {'mmpretrain': 64, 'mmseg': 64, 'mmdet': 128, 'mmrotate': 128}, 16
# Imported before a step forks this process, to save time; none of them starts a thread.
HEAVY = (
    'mmdet.models',
    'mmseg.models',
    'mmrotate.models',
    'mmpretrain.models',
    'mtp.data.crops',
    'mtp.data.readers.boxes',
    'mtp.data.readers.labelled',
    'mtp.data.readers.pairs',
    'mtp.models',
    'mtp.evaluation',
    'torch.utils.tensorboard',
)
FORK = multiprocessing.get_context('fork')
COLUMNS = '{:<12} {:<15} {:>7} {:>16}  {:<34} {:>8}'


class StepError(Exception):
    """Failure of a step; the message names its log."""


def step(log: Path, function: Callable, *args: object) -> None:
    """Call a function in its own process, and append its output to a log.

    Raises:
        StepError: the process ended with an error.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = FORK.Process(target=_logged, args=(log, function, *args))
    process.start()
    process.join()
    if process.exitcode:
        last = log.read_text().strip().rpartition('\n')[2]
        raise StepError(f'{last} (exit code {process.exitcode}, {log})')


def _logged(log: Path, function: Callable, *args: object) -> None:
    with log.open('a') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    function(*args)


def tool(script: Path, *args: object) -> None:
    """Run ``python <script> <args>`` in this process."""
    sys.argv = [str(script), *map(str, args)]
    print('\n$ python', *sys.argv, flush=True)
    runpy.run_path(sys.argv[0], run_name='__main__')


def count_images(config: Path, target: Path) -> None:
    """Write the number of training images of a config to a file."""
    target.write_text(str(_num_images(Config.fromfile(config))))


def _num_images(cfg: Config) -> int:
    init_default_scope(cfg.default_scope)
    return len(DATASETS.build(cfg.train_dataloader.dataset))


def write_small(config: Path, data: Path, target: Path) -> None:
    """Write a small version of a config that reads its data set from ``data``."""
    cfg = Config.fromfile(config)
    table.set_data_root(cfg, data)
    num_images = _num_images(cfg)
    shrink.shrink(cfg, SIDES[cfg.default_scope])
    shrink.shorten(cfg, num_images, STEPS)
    cfg.dump(target)


def finetune(tools: Path, dataset: str, config: Path, folder: Path) -> dict:
    """Train or resume, then test; return the figures of the table's row.

    Raises:
        StepError: a step failed, or the loss is not finite.
    """
    log, results = folder / 'log.txt', table.read_results()[dataset]
    step(log, count_images, config, folder / 'images.txt')
    step(log, tool, tools / 'train.py', config, '--work-dir', folder, '--resume', 'auto')
    submission = [] if results.key else ['--submission', folder / 'submission']
    step(
        log,
        tool,
        tools / 'test.py',
        config,
        last_checkpoint(folder),
        '--work-dir',
        folder / 'test',
        *submission,
    )

    losses = list(read_scalars(folder)['loss'].values())
    if not math.isfinite(losses[-1]):
        raise StepError(f'the loss is not finite ({log})')
    metrics = read_figures(folder / 'test' / 'metrics.json')
    if results.key:
        figure = f'{results.metric}: {results.percent(metrics, results.key):.2f}'
    else:
        (archive,) = (folder / 'submission').glob('*.zip')
        figure = f'{archive.name} of {metrics["images"]} images'
    return dict(
        images=int((folder / 'images.txt').read_text()),
        loss=f'{losses[0]:.3f} -> {losses[-1]:.3f}',
        figure=figure,
    )


def attempt(
    tools: Path, dataset: str, config: Path, folder: Path, data: Path | None = None
) -> dict:
    """Finetune one config, unless it is already finished; return its row of the table.

    Args:
        tools: folder of the command-line scripts.
        dataset: name of the data set.
        config: config file of the recipe.
        folder: work directory.
        data: folder of prepared data for a small run; None for the recipe itself.
    """
    kept, begin = folder / 'result.json', time.perf_counter()
    if kept.is_file():
        return dict(json.loads(kept.read_text()), before=folder)
    row: dict[str, Any] = dict(dataset=dataset, model=config.stem)
    try:
        if data:
            shutil.rmtree(folder, ignore_errors=True)  # small runs start over
            small = folder / 'small' / config.name
            small.parent.mkdir(parents=True)
            step(folder / 'log.txt', write_small, config, data, small)
            config = small
        row |= finetune(tools, dataset, config, folder)
    except Exception as error:
        with (folder / 'log.txt').open('a') as log:
            traceback.print_exc(file=log)
        return dict(row, error=str(error))
    row['seconds'] = time.perf_counter() - begin
    write_json(kept, row)
    return row


def small_run(
    tools: Path, folder: Path, threads: int, dataset: str, models: Sequence[str]
) -> list[dict]:
    """Make a synthetic data set and finetune small models on it, below ``folder``."""
    torch.set_num_threads(threads)
    folder = folder / dataset
    done = folder / 'data.done'
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        name, multi_scale = table.dataset_of(dataset)
        source, log = folder / 'source', folder / 'log.txt'
        try:
            step(log, tool, tools / 'data/make_synthetic.py', source, '--dataset', name)
            step(
                log,
                tool,
                tools / 'data/prepare.py',
                name,
                source,
                folder / 'data',
                *(['--multi-scale'] if multi_scale else []),
            )
        except StepError as error:
            return [dict(dataset=dataset, model='data', error=str(error))]
        done.touch()
    return [
        attempt(tools, dataset, table.config_of(dataset, model), folder / model, folder / 'data')
        for model in models
    ]


def show(rows: Iterable[dict]) -> list[dict]:
    """Print rows of the table as they arrive; return those that failed."""
    print(COLUMNS.format('data set', 'model', 'images', 'loss', 'result', 'seconds'), flush=True)
    failed, before = [], []
    for row in rows:
        if 'error' in row:
            failed.append(row)
            row = dict(row, images='', loss='', figure='FAILED', seconds='')
        elif 'before' in row:
            before.append(row['before'])
        seconds = row['seconds'] and f'{row["seconds"]:.0f}'
        print(
            COLUMNS.format(
                row['dataset'], row['model'], row['images'], row['loss'], row['figure'], seconds
            ).rstrip(),
            flush=True,
        )
    if before:
        print(
            f'{len(before)} of these were finished before: to repeat one, remove its folder, '
            f'e.g. {before[0]}'
        )
    return failed


def run(tools: Path, datasets: Sequence[str] | None, models: Sequence[str] | None) -> list[dict]:
    """Train and test the recipes of the data sets in ``data/``; return the rows that failed.

    Args:
        tools: folder of the command-line scripts.
        datasets: names of data sets; None for all that exist.
        models: names of models; None for ``vit_b_rvsa``.

    Raises:
        FileNotFoundError: a requested data set is missing in ``data/``, or all of them are.
    """
    jobs = _jobs(datasets, models or ['vit_b_rvsa'])
    missing = [name for name in jobs if not Path('data', name).is_dir()]
    if missing and (datasets or len(missing) == len(jobs)):
        raise FileNotFoundError(
            f'not in data/: {", ".join(missing)}. Make them with `mtp data prepare`'
        )
    configs = [
        (name, table.config_of(name, model))
        for name, of_name in jobs.items()
        if name not in missing
        for model in of_name
    ]
    _import_heavy()
    return show(attempt(tools, name, config, default_work_dir(config)) for name, config in configs)


def run_small(
    tools: Path, datasets: Sequence[str] | None, models: Sequence[str] | None, work_dir: Path
) -> list[dict]:
    """Train and test small models on synthetic data in parallel; return the rows that failed.

    Args:
        tools: folder of the command-line scripts.
        datasets: names of data sets; None for all.
        models: names of models; None for all.
        work_dir: work directory.
    """
    jobs = _jobs(datasets, models or list(shrink.TINY))
    _import_heavy()
    cores = os.cpu_count() or 1
    workers = min(cores, len(jobs))
    run_one = partial(small_run, tools, work_dir.absolute(), max(1, cores // workers))
    with ProcessPoolExecutor(workers, mp_context=FORK) as pool:
        return show(chain.from_iterable(pool.map(run_one, jobs, jobs.values())))


def _jobs(datasets: Sequence[str] | None, models: Sequence[str]) -> dict[str, list[str]]:
    """Return data set -> those models that have a recipe for it."""
    return {
        name: [model for model in models if model in table.configs(name)]
        for name in datasets or table.read_results()
    }


def _import_heavy() -> None:
    for module in HEAVY:
        importlib.import_module(module)
