"""Pretraining steps on fake CUDA tensors, in the form that is captured as CUDA graphs."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.utils import get_object_from_string
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)

# isort: split
# the modules of the benchmarks import one another from their folder
sys.path.insert(0, str(Path(__file__).parents[1] / 'benchmark'))
from counting import counted_step
from training import jobs
from training.batches import make_samples
from training.measure import Kept

from mtp.engine import parallel
from mtp.engine.finite import SavedBuffers
from mtp.engine.static_batch import StaticBatch
from mtp.engine.weight_copies import WeightCopies
from mtp.models.tasks.base import TaskBatch
from mtp.models.tasks.two_stage import TwoStageTask
from mtp.registry import MODELS
from tools.gate import backward
from tools.gate.trace import Tracer
from tools.gate.uncompiled import Uncompiled
from tools.gate.workloads import Pretraining

IMAGES, OBJECTS, SIDE = 2, 23, 448  # images per data set, objects per image, side in pixels


def pretrain(workload: Pretraining, tracer: Tracer) -> tuple[dict[str, int], float | None]:
    """Trace the parts of a step.

    Returns:
        tuple: place in the step -> launches of uncompiled code; memory that the step keeps for its
        backward pass, MB an image.
    """
    cfg = _config(workload)
    samples = make_samples(jobs.num_classes(cfg), IMAGES, OBJECTS, SIDE)
    batch = cfg.train_dataloader.collate_fn.type(samples)
    # The process group that stands in for several processes copies through the host.
    counter = Uncompiled(tracer, captured=workload.processes == 'one')
    with counted_step.as_on_a_gpu('cuda', True):
        batch = StaticBatch(batch, torch.device('cuda')).content
        with torch.device('cuda'):
            model = MODELS.build(cfg.model).train()
        if workload.processes == 'FSDP2':
            _gather_in_bfloat16(model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        optimizer._saved = buffers = SavedBuffers(model, {})
        _make_constants(model)
        tracer.install(model)
        preprocessor = model.data_preprocessor.to('cuda')
        with counter:
            data = preprocessor(batch, training=True)
            counter.take('data preprocessor')
        with counter, _foreach_of_fake_tensors(), backward.in_python():
            copies = WeightCopies(model, torch.bfloat16)
            if workload.processes != 'FSDP2':
                copies.make()
            with copies.in_place():
                with Kept(model, copies.tensors) as tracer.kept:
                    loss = counted_step.loss(model, data)
                if tracer.only:  # without the other parts the remaining launches mean nothing
                    return {}, None
                counter.take('forward')
                _differentiate(loss, model)
                counter.launches['copy of a gradient', ''] += _copied_gradients(model)
                counter.take('backward')
            # The first step makes its state. The rates stay numbers: torch has no fake form of the
            # update that reads them from the device.
            for _ in range(2):
                buffers.save()
                optimizer._losses = {1: loss.detach().reshape(1)}
                optimizer.step()
                counter.take('optimiser')
    return counter.taken, tracer.kept.nbytes / len(samples) / 1e6


def _make_constants(model: nn.Module) -> None:
    """Make anchors and places of outputs, which a run makes in its first, uncaptured step."""
    groups = {name: slice(IMAGES * i, IMAGES * (i + 1)) for i, name in enumerate(model.datasets)}
    batch = TaskBatch([], groups, torch.device('cuda', 0))
    for task in model.tasks.values():
        if isinstance(task, TwoStageTask):
            head = task.rpn_head
            strides = [across for across, _ in head.prior_generator.strides]
            head._anchors_of(
                [torch.empty(1, 1, -(-SIDE // n), -(-SIDE // n), device='cuda') for n in strides]
            )
            task.roi_head._columns_of(batch)


def _config(workload: Pretraining) -> Config:
    cfg = jobs.load_recipe(workload.model, SIDE, {})
    if workload.classes:
        first = next(iter(cfg.model.datasets.values()))
        cfg.model.datasets = {
            f'of_{number}': dict(first, num_classes=number - 1, tasks=workload.tasks)
            for number in workload.classes
        }
        cfg.model.tasks = {task: cfg.model.tasks[task] for task in workload.tasks}
    return cfg


def _gather_in_bfloat16(model: nn.Module) -> None:
    """Give the blocks bfloat16 parameters, as FSDP2 gathers them."""
    for block in parallel.parts(model)[0]:
        for module in block.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().bfloat16()))


@contextmanager
def _foreach_of_fake_tensors() -> Iterator[None]:
    """Let the optimiser and the clipping of gradients treat fake tensors like real ones."""
    with ExitStack() as stack:
        for name in ('torch.optim.optimizer', 'torch.utils._foreach_utils'):
            types = f'{name}._foreach_supported_types'
            stack.enter_context(patch(types, [*get_object_from_string(types), FakeTensor]))
        yield


def _copied_gradients(model: nn.Module) -> int:
    """Return how many gradients autograd copies, since they lie otherwise than their parameters."""
    return sum(
        any(a != b for a, b, size in zip(p.grad.stride(), p.stride(), p.shape) if size > 1)
        for p in model.parameters()
        if p.grad is not None
    )


def _differentiate(loss: Tensor, model: nn.Module) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.autocast('cuda', enabled=False):
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads):
        parameter.grad = grad
