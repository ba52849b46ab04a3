"""The steps of training whose parts the gate compiles."""
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.utils import get_object_from_string
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)

# isort: split
sys.path.insert(0, str(Path(__file__).parents[1] / 'benchmark'))  # whose scripts are no package
import counted_step
import jobs
from batches import make_samples

from mtp.engine import parallel
from mtp.registry import MODELS
from tools.gate import backward
from tools.gate.finetune import finetuning
from tools.gate.trace import Tracer
from tools.gate.uncompiled import Uncompiled

IMAGES, OBJECTS, SIDE = 2, 23, 448  # images of each data set, objects of each image, pixels
# What depends on the number of classes, and the numbers to try, background included: around the
# powers of two to which Triton rounds, and the largest of SAMRS. Background alone is no data set.
BY_CLASSES = ('SemanticTask.terms', 'SharedRoIHead.targets', 'SharedRoIHead.box_terms')
CLASSES = (2, 15, 16, 17, 31, 32, 33, 38)
QUICK = ('SemanticTask.terms', 'MultiDatasetRPNHead.targets')  # for the test suite
FINETUNING = {  # a recipe of each kind
    'classification': 'classification/eurosat/vit_b_rvsa',
    'retinanet': 'horizontal_detection/xview/vit_b_rvsa',
    'faster_rcnn': 'horizontal_detection/dior/vit_b_rvsa',
    'oriented_rcnn': 'rotated_detection/dior_r/vit_b_rvsa',
    'upernet': 'segmentation/loveda/vit_b_rvsa',
    'change': 'change_detection/levir/vit_b_rvsa'}


@dataclass(frozen=True)
class Workload:
    """A training step.

    Attributes:
        run: traces its parts; returns the launches of what runs uncompiled, by where.
        only: titles of the parts to compile; all if empty.
    """
    run: Callable[[Tracer], dict[str, int]]
    only: tuple[str, ...] = ()


@contextmanager
def group_of_two() -> Iterator[None]:
    """Be the first of two processes, the other of which is not there."""
    dist.init_process_group('fake', store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def pretraining(model: str, processes: str, classes: tuple[int, ...] = (),
                tasks: tuple[str, ...] = ('semantic', 'instance', 'rotated')
                ) -> Callable[[Tracer], dict[str, int]]:
    """A pretraining step on fake CUDA tensors.

    Args:
        model: a key of ``jobs.RECIPES``.
        processes: ``'one'``; ``'DDP'`` or ``'FSDP2'``: the first of two.
        classes: of the data sets, background included, instead of the recipe's.
        tasks: of the model, where ``classes`` are given.
    """
    def run(tracer: Tracer) -> dict[str, int]:
        cfg = jobs.load_recipe(model, SIDE, {})
        if classes:
            first = next(iter(cfg.model.datasets.values()))
            cfg.model.datasets = {
                f'of_{number}': dict(first, num_classes=number - 1, tasks=tasks)
                for number in classes}
            cfg.model.tasks = {task: cfg.model.tasks[task] for task in tasks}
        with nullcontext() if processes == 'one' else group_of_two():
            return _pretrain(cfg, processes == 'FSDP2', tracer)
    return run


WORKLOADS = {
    **{f'{model} {processes}': Workload(pretraining(model, processes))
       # in this order, so that two at a time have little in common, which one finds done later
       for processes in ('one', 'DDP', 'FSDP2')
       for model in ('vit_b_rvsa', 'internimage_xl', 'vit_l_rvsa')},
    **{f'{task} one': Workload(finetuning(config)) for task, config in FINETUNING.items()},
    **{f'{task} DDP': Workload(finetuning(FINETUNING[task], group_of_two))
       for task in ('upernet', 'change')},
    'classes': Workload(pretraining('vit_tiny_rvsa', 'one', CLASSES), BY_CLASSES),
    'quick': Workload(
        pretraining('vit_tiny_rvsa', 'one', (19,), ('semantic', 'instance')), QUICK)}


def _pretrain(cfg: Config, low_blocks: bool, tracer: Tracer) -> dict[str, int]:
    samples = make_samples(jobs.num_classes(cfg), IMAGES, OBJECTS, SIDE)
    with Uncompiled(tracer) as counter:
        batch = cfg.train_dataloader.collate_fn.type(samples)
        data = MODELS.build(cfg.model.data_preprocessor)(batch, training=True)
        counter.take('data preprocessor')
    with counted_step.as_on_a_gpu('cuda', True):
        with torch.device('cuda'):
            model = MODELS.build(cfg.model).train()
        data = dict(inputs=data['inputs'].to('cuda'),
                    data_samples=[sample.to('cuda') for sample in data['data_samples']])
        if low_blocks:
            _gather_in_bfloat16(model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        tracer.install(model)
        with counter, _foreach_of_fake_tensors():
            loss = counted_step.loss(model, data)
            if tracer.only:  # of a part of a step the rest says nothing
                return {}
            counter.take('forward')
            _differentiate(loss, model)
            counter.take('backward')
            for _ in range(2):  # the first time it makes its state
                optimizer.step()
                counter.take('optimiser')
    return counter.taken


def _gather_in_bfloat16(model: nn.Module) -> None:
    """Give the blocks the parameters that FSDP2 gathers for them."""
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


def _differentiate(loss: Tensor, model: nn.Module) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    with backward.in_python():
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads):
        parameter.grad = grad
