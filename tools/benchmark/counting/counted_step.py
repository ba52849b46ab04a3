"""A training step on fake tensors, with a GPU's implementations, counted by ``counted.py``."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from paper.model import plain_operators
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from training import jobs
from training.batches import make_samples
from training.measure import Kept

from counting.gpu_forms import forms_of_a_gpu
from counting.launches import LaunchCounter
from mtp.engine import flops
from mtp.models.backbones import build_backbone
from mtp.ops import dispatch
from mtp.registry import MODELS

BATCHES = {'': (1, 1), '_twice_images': (2, 1), '_twice_objects': (1, 2)}


def of_backbone(cfg: Config, images: int, size: int, plain: bool, amp: bool) -> dict[str, float]:
    """Return the backbone's GFLOP of forward and backward, and MB kept between, per image."""
    settings = {key: value for key, value in cfg.model.backbone.items() if key != 'type'}
    operators = plain_operators if plain else nullcontext
    # cuDNN, which decides on the layout of maps, has no grid_sample for fake tensors
    with as_on_a_gpu('cuda', amp), torch.backends.cudnn.flags(enabled=not plain):
        with torch.device('cuda'):
            backbone, inputs = build_backbone(**settings), torch.rand(images, 3, size, size)
        with operators(), Kept(backbone) as kept:
            backbone(inputs)
    # Autograd asks the GPU for a thread: operations with a backward pass are counted on the CPU.
    with as_on_a_gpu('cpu', False):
        backbone, inputs = build_backbone(**settings), torch.rand(images, 3, size, size)

        def step() -> None:
            with operators():
                maps = backbone(inputs)
            torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

        operations = flops.count(step)
    return {
        'backbone_gflop': operations / images / 1e9,
        'backbone_saved_mb': kept.nbytes / images / 1e6,
    }


def of_step(cfg: Config, images: int, objects: int, size: int) -> dict[str, float]:
    """Return GFLOP and MB of our whole model per image, and the launches of a step."""
    row = {}
    for title, (more_images, more_objects) in BATCHES.items():
        samples = make_samples(
            jobs.num_classes(cfg), more_images * images, more_objects * objects, size
        )
        batch = cfg.train_dataloader.collate_fn.type(samples)
        data = MODELS.build(cfg.model.data_preprocessor)(batch, training=True)
        with as_on_a_gpu('cpu', False):
            model = MODELS.build(cfg.model)
            with LaunchCounter() as counter:
                loss(model, data).backward()
            if not title:
                row['gflop'] = flops.count(lambda: loss(model, data).backward())  # noqa: B023
                row['gflop'] /= len(samples) * 1e9
        # fake tensors query their own device (prim::device), which launches nothing
        row[f'launches{title}'] = sum(
            number
            for (name, _), number in counter.launches.items()
            if not name.startswith('prim::')
        )
        if not title:
            with as_on_a_gpu('cuda', True):
                with torch.device('cuda'):
                    model = MODELS.build(cfg.model)
                data = model.data_preprocessor.to('cuda')(batch, training=True)
                with Kept(model) as kept:
                    loss(model, data)
            row['saved_mb'] = kept.nbytes / len(samples) / 1e6
    return row


def loss(model: nn.Module, data: dict[str, Any]) -> Tensor:
    return model.parse_losses(model(**data, mode='loss'))[0]


def _always() -> bool:
    """Stand in for ``torch.compiler.is_compiling``; one function, since Dynamo remembers which."""
    return True


@contextmanager
def as_on_a_gpu(device: str, amp: bool) -> Iterator[None]:
    """Use fake tensors on ``device``, and for them the implementations that a GPU takes."""
    # torch.autocast refuses where there is no GPU
    before = torch.is_autocast_enabled('cuda')
    torch.set_autocast_enabled('cuda', amp)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    with ExitStack() as stack:
        stack.callback(torch.set_autocast_enabled, 'cuda', before)
        for context in (
            FakeTensorMode(allow_non_fake_inputs=True),
            patch.object(dispatch, '_reason_against', lambda *_: None),
            # skip the checks of values, which the operators make only on a CPU
            patch.object(torch.compiler, 'is_compiling', _always),
            patch.object(Tensor, 'pin_memory', lambda tensor: tensor),
            # torch's checkpoints enter autocast again
            patch.object(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False),
            patch.object(torch.cuda, 'is_bf16_supported', lambda: True),
        ):
            stack.enter_context(context)
        if device == 'cuda':
            stack.enter_context(forms_of_a_gpu())
        yield
