"""Advice if the first step does not fit the GPU: how much it needs, and what would fit."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from torch.distributed.tensor import DTensor

from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.fallback import reason_in_a_line

# Share of the memory that a batch may fill; the rest is lost to fragmentation.
USABLE = 0.92


@contextmanager
def allocations_recorded() -> Iterator[None]:
    """Record the line of code of each allocation, for a snapshot of the GPU's memory.

    It takes some microseconds per allocation, which is too much for every step.
    """
    if not torch.cuda.is_available():
        yield
        return
    record = torch.cuda.memory._record_memory_history
    with suppress(RuntimeError):  # some allocators cannot record, e.g. cudaMallocAsync
        record(stacks='python', max_entries=100_000)
    try:
        yield
    finally:
        with suppress(RuntimeError):
            record(enabled=None)


def write_snapshot(runner: Runner) -> None:
    """Write a snapshot of the GPU's memory to ``<work_dir>/memory_<rank>.pickle``; log its path."""
    path = Path(runner.work_dir) / f'memory_{get_rank()}.pickle'
    try:
        torch.cuda.memory._dump_snapshot(str(path))
    except Exception as error:  # must not hide the out-of-memory error
        runner.logger.warning(f'No snapshot of the memory was written: {reason_in_a_line(error)}')
    else:
        runner.logger.error(
            f'Out of memory: what filled it is in {path}, which '
            'https://pytorch.org/memory_viz shows'
        )


def explain_shortage(runner: Runner, said: str) -> str:
    """Return advice on a first step that ran out of memory.

    A single process measures two smaller batches. With several processes, the others already wait
    in a collective operation, so the estimate follows from the number of weights alone.

    Args:
        runner: runner whose first step has failed; it cannot continue to train after this.
        said: error message of torch.
    """
    try:
        return _explain(runner, said)
    except Exception as error:  # must not hide the out-of-memory error
        return (
            'the first step does not fit the memory of the GPU: lower --images-per-gpu. What would '
            f'fit is not known: {reason_in_a_line(error)}. torch says: {said.splitlines()[0]}'
        )


def _explain(runner: Runner, said: str) -> str:
    _release(runner)
    images = runner.train_dataloader.batch_sampler.batch_size
    free, total = torch.cuda.mem_get_info()
    capacity = int(USABLE * (free + torch.cuda.memory_reserved()))
    unit = len(getattr(runner.train_dataloader.sampler, 'counts', [1]))  # one image per data set
    fixed, per_image = _count(runner, images, capacity)
    how, fitting = 'counted; an image takes at least', images // 2
    if get_world_size() == 1 and images > 3 * unit:
        try:
            fixed, per_image = _measure(runner, images, unit)
            # images of the smaller batches may have been smaller
            fitting = min(int((capacity - fixed) / per_image), images - 1)
            how = 'measured; an image takes'
        except torch.cuda.OutOfMemoryError:
            fitting = 0
    return (
        f'the first step does not fit the memory of the GPU, {total / 2**30:.1f} GiB, with '
        f'{images} images at once. Weights, gradients, states of the optimiser and all else '
        f'that does not depend on the batch take {fixed / 2**30:.2f} GiB ({how} '
        f'{per_image / 2**30:.2f} GiB). {_advice(fitting, unit)}. torch says: '
        f'{said.splitlines()[0]}'
    )


def _advice(fitting: int, unit: int) -> str:
    if fitting >= unit:
        first = (
            f'{fitting} images should fit: --images-per-gpu {fitting} (a step keeps its '
            'images, gradients are summed)'
        )
    else:
        first = (
            f'The smallest batch, of {unit} image{"s" if unit > 1 else ""}, may not fit: a '
            'smaller --images-per-gpu alone is not enough'
        )
    return (
        f'{first}. Further: --cfg-options model.backbone.with_cp=True (activations are '
        'computed twice instead of kept), and on several GPUs --cfg-options '
        'model_wrapper_cfg.type=mtp.engine.ShardedModel (each keeps a share of the weights '
        'and states)'
    )


def _measure(runner: Runner, images: int, unit: int) -> tuple[int, int]:
    """Return the memory of a step without images and the memory per image, in bytes."""
    indices = list(islice(runner.train_dataloader.sampler, images))
    # Compiled code needs less memory, but compiling for two more sizes would take minutes.
    with torch.compiler.set_stance('force_eager'):
        # at least two images per data set: batch norm refuses a single value per channel
        _peak(runner, indices, 2 * unit)  # creates the optimiser states
        small, large = (_peak(runner, indices, number * unit) for number in (2, 3))
    per_image = max(1, (large - small) // unit)
    return small - 2 * unit * per_image, per_image


def _peak(runner: Runner, indices: Sequence[Any], number: int) -> int:
    """Return the peak memory in bytes of a step with ``number`` of the images at ``indices``."""
    # evenly spaced: ``indices`` holds the data sets one after another
    chosen = [indices[i * len(indices) // number] for i in range(number)]
    loader = runner.train_dataloader
    batch = loader.collate_fn([loader.dataset[index] for index in chosen])
    torch.cuda.reset_peak_memory_stats()
    runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
    return torch.cuda.max_memory_allocated()


def _count(runner: Runner, images: int, capacity: int) -> tuple[int, int]:
    """Return the memory that the weights imply, and a lower bound per image, in bytes."""
    weights = (
        value.to_local() if isinstance(value, DTensor) else value
        for value in runner.model.parameters()
    )
    # weights, gradients and the two moments of AdamW
    fixed = 4 * sum(value.numel() * value.element_size() for value in weights)
    return fixed, max(0, capacity - fixed) // images


def _release(runner: Runner) -> None:
    runner.optim_wrapper.zero_grad()
    if isinstance(runner.optim_wrapper, MixedPrecisionOptimWrapper):
        runner.optim_wrapper.start_update(1)
    gc.collect()
    torch.cuda.empty_cache()
