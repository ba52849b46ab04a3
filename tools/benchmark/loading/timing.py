"""The measurements of ``data.py``: our pipeline and the paper's, on the same samples, by stage."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmcv.transforms import RandomResize
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data import (
    Crop,
    DrawDistortion,
    FilterInstances,
    Flip,
    LoadCrop,
    LoadImage,
    LoadLabels,
    MultiTaskDataset,
    PackLabels,
    Resize,
    crops,
    labels,
)

# Stage -> module -> the names in it that make up the stage.
STAGES = {
    'decode': {crops: ('read_image',), labels: ('read_map',)},
    'masks': {labels: ('read_counts', 'crop_masks')},
    'label map': {labels: ('crop_map', '_as_labels', '_read_map')},
    'boxes': {labels: ('HorizontalBoxes', 'RotatedBoxes')},
}


def papers(size: int) -> list[dict[str, Any]]:
    """Return the paper's transforms."""
    return [
        dict(type=LoadImage),
        dict(type=LoadLabels),
        dict(type=Flip, prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
        dict(
            type=RandomResize,
            scale=(size, size),
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
            resize_type=Resize,
        ),
        dict(type=Crop, size=size),
        dict(type=FilterInstances),
        dict(type=PhotoMetricDistortion),
        dict(type=PackLabels),
    ]


def ours(size: int) -> list[dict[str, Any]]:
    """Return the transforms of the configs; they draw the distortion, the device applies it."""
    return [dict(type=LoadCrop, size=size), dict(type=DrawDistortion), dict(type=PackLabels)]


class Watch:
    """Processor seconds of this process by stage; a stage inside another is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0

    def timed(self, stage: str, function: Callable) -> Callable:
        """Return ``function`` with its time added to ``stage``."""

        def run(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            begun = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.process_time() - begun
                self.seconds[stage] += taken - self._inner
                self._inner = outer + taken

        return run

    def watch(self, dataset: MultiTaskDataset) -> None:
        """Time the transforms and the records of a :class:`MultiTaskDataset` of one data set."""
        inner = dataset.datasets[0]
        inner.get_data_info = self.timed('record', inner.get_data_info)
        for i, transform in enumerate(inner.pipeline.transforms):
            inner.pipeline.transforms[i] = self.timed(type(transform).__name__, transform)


@contextmanager
def split_crop(watch: Watch) -> Iterator[None]:
    """Time the parts of :class:`LoadCrop` separately."""
    plain = {
        (module, name): getattr(module, name)
        for modules in STAGES.values()
        for module, names in modules.items()
        for name in names
    }
    resize = crops.Window.crop_image
    try:
        for stage, modules in STAGES.items():
            for module, names in modules.items():
                for name in names:
                    setattr(module, name, watch.timed(stage, plain[module, name]))
        crops.Window.crop_image = watch.timed('geometry', resize)
        yield
    finally:
        crops.Window.crop_image = resize
        for (module, name), function in plain.items():
            setattr(module, name, function)


def measure(
    name: str, paper: MultiTaskDataset, mine: MultiTaskDataset, samples: int
) -> dict[str, Any]:
    """Return mean milliseconds per sample of both pipelines, and again by stage."""
    seconds = [0.0, 0.0]
    pairs = [(seed % len(paper), seed) for seed in range(samples)]
    for pair in pairs:
        check_equal(paper[pair], mine[pair])
    for i, dataset in enumerate((paper, mine)):
        begun = time.process_time()
        for pair in pairs:
            dataset[pair]
        seconds[i] = time.process_time() - begun
    watches = Watch(), Watch()
    for watch, dataset in zip(watches, (paper, mine)):
        watch.watch(dataset)
    with split_crop(watches[1]):
        for pair in pairs:
            mine[pair]
    for pair in pairs[: len(pairs) // 2]:
        paper[pair]
    counts = len(pairs) // 2, len(pairs)
    stages = [
        {stage: 1000 * taken / count for stage, taken in watch.seconds.items()}
        for watch, count in zip(watches, counts)
    ]
    paper_ms, ours_ms = (1000 * taken / samples for taken in seconds)
    return dict(
        files=name,
        samples=samples,
        paper_ms=paper_ms,
        ours_ms=ours_ms,
        ratio=paper_ms / ours_ms,
        images_per_second=1000 / ours_ms,
        paper_stages=stages[0],
        ours_stages=stages[1],
    )


def check_equal(paper: dict, mine: dict) -> None:
    """Check that masks, label maps and labels are the same, bit by bit.

    Raises:
        AssertionError: they are not.
    """
    paper, mine = paper['data_samples'], mine['data_samples']
    assert np.array_equal(paper.gt_instances.masks.masks, mine.gt_instances.masks.masks)
    assert torch.equal(paper.gt_sem_seg.sem_seg, mine.gt_sem_seg.sem_seg)
    assert torch.equal(paper.gt_instances.labels, mine.gt_instances.labels)
