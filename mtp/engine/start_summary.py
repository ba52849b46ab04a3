"""Summary of a run in a few lines, before its first step: model, weights, data, batch, schedule."""

from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from mtp.data.tally import Tally
from mtp.engine.devices import describe_device
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.engine.parallel import unwrap


def of_training(runner: MMEngineRunner, checkpoint: str | None) -> Iterator[str]:
    """Yield the lines of a training.

    Args:
        runner: runner whose loops, optimiser wrapper and weights are ready.
        checkpoint: path of the checkpoint that was loaded or resumed; None without one.
    """
    loop = runner.train_loop
    yield _model(runner)
    yield _weights(runner, checkpoint)
    yield describe_data('Training data', loop.dataloader.dataset)
    if runner.val_loop is not None:
        yield describe_data('Validation data', runner.val_dataloader.dataset)
    yield _batch(loop)
    yield from describe_device()
    yield f'Precision: {_precision(runner.optim_wrapper)}'
    yield _schedule(runner)
    yield _work_dir(runner)


def of_test(runner: MMEngineRunner, checkpoint: str | None) -> Iterator[str]:
    """Yield the lines of a test; the arguments are those of :func:`of_training`."""
    yield _model(runner)
    yield _weights(runner, checkpoint)
    yield describe_data('Test data', runner.test_dataloader.dataset)
    yield from describe_device()
    yield _work_dir(runner)


def describe_data(title: str, dataset: Any) -> str:
    """Return the line with the counts of a data set, or of each part of several."""
    parts = getattr(dataset, 'datasets', None) or [dataset]
    return f'{title}: {"; ".join(map(_counts, parts))}'


def _counts(dataset: Any) -> str:
    # a reader that counts what it leaves out has a tally
    tally = getattr(dataset, 'tally', None) or Tally(images=len(dataset))
    name = (getattr(dataset, 'metainfo', None) or {}).get('name')
    return f'{name}: {tally.summary()}' if name else tally.summary()


def _model(runner: MMEngineRunner) -> str:
    model = unwrap(runner.model)
    trained = _millions(p.numel() for p in model.parameters() if p.requires_grad)
    backbone = (runner.cfg.get('model') or {}).get('backbone') or {}
    encoder = backbone.get('name') or type(getattr(model, 'backbone', None)).__name__
    size = f' at {backbone["img_size"]} pixels' if 'img_size' in backbone else ''
    return (
        f'Model: {type(model).__name__} with {encoder}{size}, '
        f'{_millions(p.numel() for p in model.parameters())} M parameters, {trained} M trained'
    )


def _millions(numbers: Iterable[int]) -> str:
    return f'{sum(numbers) / 1e6:,.2f}'


def _weights(runner: MMEngineRunner, checkpoint: str | None) -> str:
    if runner._resume:
        return f'Weights: of {checkpoint or runner.work_dir}, resumed after {runner.iter} steps'
    if checkpoint:
        return f'Weights: of {checkpoint}'
    backbone = getattr(unwrap(runner.model), 'backbone', None)
    report = getattr(backbone, 'load_report', None)
    if report is not None:
        return (
            f'Weights: encoder of {report.path} ({len(report.loaded)} entries, of which '
            f'{len(report.resized)} resized; {len(report.missing)} missing), the rest random'
        )
    return f'Weights: {_other_start(backbone)}'


def _other_start(backbone: nn.Module | None) -> str:
    init = getattr(backbone, 'init_cfg', None)
    path = init.get('checkpoint') if isinstance(init, dict) else None
    return f'encoder of {path}, the rest random' if path else 'random, none are loaded'


def _batch(loop: Any) -> str:
    accumulation, processes = getattr(loop, 'accumulation', 1), get_world_size()
    share = loop.dataloader.batch_size  # of a process in a step
    if share is None:
        return f'Batch: {processes} x {accumulation} batches a step'
    return (
        f'Batch: {share * processes} images a step ({processes} '
        f'process{"es" if processes > 1 else ""} x {share // accumulation} images'
        + (f' x {accumulation} times)' if accumulation > 1 else ')')
    )


def _precision(wrapper: Any) -> str:
    if isinstance(wrapper, MixedPrecisionOptimWrapper):
        dtype = str(wrapper.dtype).removeprefix('torch.')
        return f'{dtype} autocast' if wrapper.enabled else 'float32'
    return f'of {type(wrapper).__name__}'


def _schedule(runner: MMEngineRunner) -> str:
    loop = runner.train_loop
    length = len(loop.dataloader)
    steps = f'{runner.max_iters:,} steps'
    if isinstance(loop, EpochBasedTrainLoop):
        text, unit = f'{runner.max_epochs} epochs of {length:,} steps, {steps} in all', 'epochs'
    else:
        text, unit = f'{steps}, {runner.max_iters / length:.1f} times through the data', 'steps'
    if runner.iter:
        text += f'; {runner.iter:,} are done'
    if runner.val_loop is not None:
        text += f'; validation every {loop.val_interval:,} {unit}'
    return f'Schedule: {text}'


def _work_dir(runner: MMEngineRunner) -> str:
    return f'Work directory: {runner.work_dir}, all details in {runner.logger.log_file}'
