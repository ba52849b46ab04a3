"""Training from files: our recipe by its runner, the paper's structure with its own loader."""

import copy
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import RandomResize
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.datasets.transforms import PhotoMetricDistortion
from torch.utils.data import DataLoader

from mtp.cli import launch
from mtp.data import (
    Crop,
    FilterInstances,
    Flip,
    LoadImage,
    LoadLabels,
    MultiDatasetSampler,
    MultiTaskDataset,
    PackLabels,
    Resize,
)
from training.jobs import Job
from training.measure import wait

STEPS_PER_REPEAT = 3


def ours(cfg: Config, root: Path, images: int, repeats: int, device: torch.device) -> float:
    """Measure images per second of ``tools/train.py`` with hooks and log, without checkpoints.

    Args:
        cfg: config from :func:`training.jobs.load_recipe`.
        root: folder with a folder per data set, named as in the recipe.
        images: number of images per data set and step.
        repeats: a third of the number of steps.
        device: device that the runner takes.
    """
    cfg = copy.deepcopy(cfg)
    loader = cfg.train_dataloader
    _prepare(loader, root, cfg.model.data_preprocessor.pad_size_divisor)
    loader.batch_size = images * len(loader.dataset.datasets)
    loader.sampler.images_per_dataset = images
    # Batches that the workers made before the first step must not count.
    warm = max(2, loader.num_workers * loader.get('prefetch_factor', 2))  # torch's default
    clock = Clock(warm, warm + STEPS_PER_REPEAT * repeats, device)
    cfg.train_cfg.update(max_iters=clock.last, val_interval=clock.last + 1)
    cfg.update(
        log_level='WARNING',
        param_scheduler=None,
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
        test_cfg=None,
        test_dataloader=None,
        test_evaluator=None,
    )
    cfg.default_hooks.checkpoint.update(interval=clock.last + 1, save_last=False)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.work_dir = work_dir
        torch.set_float32_matmul_precision('high')  # as tools/train.py does
        runner: Runner = launch.build_runner(cfg)
        runner.register_hook(clock, priority='LOWEST')
        runner.train()
    return STEPS_PER_REPEAT * repeats * loader.batch_size / clock.seconds


class Clock(Hook):
    """Seconds from the end of one iteration to the end of another, numbered from 1."""

    def __init__(self, first: int, last: int, device: torch.device) -> None:
        self.first, self.last, self.device = first, last, device
        self.seconds = 0.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Start or stop the clock at its two iterations."""
        if runner.iter + 1 in (self.first, self.last):
            wait(self.device)
            self.seconds = time.perf_counter() - self.seconds


def papers(
    job: Job, cfg: Config, root: Path, images: int, repeats: int, device: torch.device
) -> float:
    """Measure images per second with the paper's transforms in the main process.

    Arguments are those of :func:`ours`, and the job to train.
    """
    loader = copy.deepcopy(cfg.train_dataloader)
    size = cfg.model.data_preprocessor.pad_size_divisor
    ratio_range = _prepare(loader, root, size)
    pipeline = [
        dict(type=LoadImage),
        dict(type=LoadLabels),
        dict(type=Flip, prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
        dict(
            type=RandomResize,
            scale=(size, size),
            ratio_range=ratio_range,
            keep_ratio=True,
            resize_type=Resize,
        ),
        dict(type=Crop, size=size),
        dict(type=FilterInstances),
        dict(type=PhotoMetricDistortion),
        dict(type=PackLabels),
    ]
    dataset = MultiTaskDataset([dict(one, pipeline=pipeline) for one in loader.dataset.datasets])
    batches = DataLoader(
        dataset,
        batch_size=images * len(dataset.datasets),
        collate_fn=pseudo_collate,
        sampler=MultiDatasetSampler(dataset, images, seed=0),
    )
    steps = STEPS_PER_REPEAT * repeats
    wait(device)
    begun = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        job.step(batch)
    wait(device)
    return steps * images * len(dataset.datasets) / (time.perf_counter() - begun)


def _prepare(loader: Any, root: Path, size: int) -> tuple[float, float]:
    """Set the data and the crop size of a loader; return its resize ratios."""
    ratios = []
    for dataset in loader.dataset.datasets:
        dataset.data_root = str(root / Path(dataset.data_root).name)
        for transform in dataset.pipeline:
            if 'scale' in transform:
                transform.scale = (size, size)
            if 'size' in transform:
                transform.size = size
            if 'ratio_range' in transform:
                ratios.append(transform.ratio_range)
    return ratios[0]
