"""Weights of convolutions cast and laid out, up to 32 in a launch.

A program turns the ``(channels, points)`` matrix of one output channel and a block of input
channels. Each weight is read and written once.
"""

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import DTYPES, else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase

BLOCK_C = 128
MOST = 32  # weights of a launch: the code grows with them


@triton.jit
def _lay_out_kernel(
    weights: 'tuple[tl.tensor, ...]',
    results: 'tuple[tl.tensor, ...]',
    outputs: 'tuple[tl.tensor, ...]',
    inputs: 'tuple[tl.tensor, ...]',
    points: 'tuple[tl.tensor, ...]',
    LAST: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    for i in tl.static_range(len(weights)):
        blocks = tl.cdiv(inputs[i], BLOCK_C)
        if (program >= 0) & (program < outputs[i] * blocks):
            c = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
            point = tl.arange(0, POINTS)
            there = (c < inputs[i])[:, None] & (point < points[i])[None, :]
            start = (program // blocks).to(tl.int64) * inputs[i] * points[i]
            channels_first = start + c[:, None] * points[i] + point[None, :]
            channels_last = start + point[None, :] * inputs[i] + c[:, None]
            if LAST:
                value = tl.load(weights[i] + channels_first, there, 0)
                tl.store(results[i] + channels_last, value, there)
            else:
                value = tl.load(weights[i] + channels_last, there, 0)
                tl.store(results[i] + channels_first, value, there)
        program -= outputs[i] * blocks


@torch.library.custom_op('mtp::lay_out_weights', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.preserve_format)
def lay_out_weights(
    weights: Sequence[Tensor], dtype: torch.dtype, channels_last: bool
) -> list[Tensor]:
    """Launch the kernel of :func:`mtp.ops.weight_layouts.lay_out_weights`."""
    results = _fake(weights, dtype, channels_last)
    layout = torch.contiguous_format if channels_last else torch.channels_last
    weights = [w.contiguous(memory_format=layout) for w in weights]
    for first in range(0, len(weights), MOST):
        some = weights[first : first + MOST]
        outputs, inputs, *sides = zip(*(w.shape for w in some))
        points = tuple(height * width for height, width in zip(*sides))
        programs = sum(o * triton.cdiv(i, BLOCK_C) for o, i in zip(outputs, inputs))
        with torch.cuda.device_of(some[0]):  # Triton launches on the current device
            _lay_out_kernel[(programs,)](
                tuple(some),
                tuple(results[first : first + MOST]),
                outputs,
                inputs,
                points,
                LAST=channels_last,
                POINTS=triton.next_power_of_2(max(points)),
                BLOCK_C=BLOCK_C,
            )
    return results


@lay_out_weights.register_fake
def _fake(weights: Sequence[Tensor], dtype: torch.dtype, channels_last: bool) -> list[Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [torch.empty_like(w, dtype=dtype, memory_format=layout) for w in weights]


def compile_cases() -> Iterator[CompileCase]:
    """Yield both directions for two weights, float32 and each other dtype."""
    for dtype in DTYPES[1:]:
        for last in (True, False):
            pointers = '*fp32', f'*{TRITON_NAMES[dtype]}'
            source, result = pointers if last else pointers[::-1]
            types: dict[str, str | tuple[str, ...]] = {
                'weights': 2 * (source,),
                'results': 2 * (result,),
                **dict.fromkeys(('outputs', 'inputs', 'points'), 2 * ('i32',)),
            }
            constants = {'LAST': last, 'POINTS': 16, 'BLOCK_C': BLOCK_C}
            types |= dict.fromkeys(constants, 'constexpr')
            yield CompileCase(_lay_out_kernel, types, constants)
