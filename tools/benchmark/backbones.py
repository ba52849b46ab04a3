"""Count what the backbones compute and keep at their real sizes, without a GPU.

    python tools/benchmark/backbones.py [--images N] [--size PIXELS] [--json FILE]

Forward and backward run on fake GPU tensors, which have shapes and no numbers, with the kernels
that a GPU would take: ``ours`` under bfloat16 autocast, ``A`` the plain operators in float32, ``C``
these under autocast. ``saved`` is what the forward pass keeps for the backward pass without
recomputation and without ``torch.compile``, parameters left out, their casts to bfloat16 not.
"""
import argparse
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)

# isort: split
import flops
import paper
from measure import Kept

from mtp.models.backbones import Backbone, build_backbone
from mtp.ops import dispatch

MODELS = ('vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--size', type=int, default=448, help='of an image in pixels')
    parser.add_argument('--json', type=Path, help='where to write the rows')
    options = parser.parse_args()
    rows = []
    print(f'{"per image":<16}{"":<6}{"GFLOP fwd+bwd":>15}{"saved, MB":>12}')
    for model in MODELS:
        for job, plain, amp in (('ours', False, True), ('A', True, False), ('C', True, True)):
            row = {'model': model, 'job': job} | count(
                model, options.images, options.size, plain, amp)
            rows.append(row)
            print(f'{model:<16}{job:<6}{row["gflop"]:15.0f}{row["saved_mb"]:12.0f}')
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def count(model: str, images: int, size: int, plain: bool, amp: bool) -> dict[str, float]:
    """GFLOP of forward and backward, and MB kept between them, per image."""
    operators = paper.plain_operators if plain else nullcontext
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone, inputs = _make(model, images, size, 'cuda')
        with operators(), as_on_a_gpu(amp), (kept := Kept(backbone)):
            backbone(inputs)
        # autograd asks the GPU itself for a thread: the backward pass is counted on the CPU
        backbone, inputs = _make(model, images, size, 'cpu')

        def step() -> None:
            with operators(), kernels():
                maps = backbone(inputs)
            torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

        return {'gflop': flops.count(step) / images / 1e9, 'saved_mb': kept.nbytes / images / 1e6}


def _make(model: str, images: int, size: int, device: str) -> tuple[Backbone, Tensor]:
    with torch.device(device):
        return build_backbone(model, img_size=size).train(), torch.rand(images, 3, size, size)


def kernels() -> AbstractContextManager:
    """Take the Triton kernels, of fake tensors only."""
    return patch.object(dispatch, '_reason_against', lambda *_: None)


@contextmanager
def as_on_a_gpu(amp: bool) -> Iterator[None]:
    """Choose the forms that run on a GPU where there is none, for fake tensors only."""
    before = torch.is_autocast_enabled('cuda')
    # torch.autocast refuses where there is no GPU
    torch.set_autocast_enabled('cuda', amp)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    try:
        with (kernels(),
              patch.object(F, 'scaled_dot_product_attention', _flash_attention),
              # cuDNN's form of grid_sample knows no fake tensors
              torch.backends.cudnn.flags(enabled=False)):
            yield
    finally:
        torch.set_autocast_enabled('cuda', before)


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    dtype = torch.bfloat16
    return torch.ops.aten._scaled_dot_product_flash_attention(
        q.to(dtype), k.to(dtype), v.to(dtype), scale=scale)[0]


if __name__ == '__main__':
    main()
