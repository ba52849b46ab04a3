"""Dtype names, the compile case and the product of matrices, shared by all kernels."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Names of dtypes in a compile case's signature; a pointer has a star before, e.g. '*bf16'.
TRITON_NAMES = {
    torch.float32: 'fp32',
    torch.bfloat16: 'bf16',
    torch.float16: 'fp16',
    torch.int64: 'i64',
    torch.int32: 'i32',
    torch.uint8: 'u8',
    torch.bool: 'i1',
}


@dataclass(frozen=True)
class CompileCase:
    """A kernel with everything that determines its machine code.

    Attributes:
        kernel: the ``@triton.jit`` function.
        signature: Triton type of each argument, e.g. ``'*bf16'`` or ``'i64'``, for a tuple one of
            each element; ``'constexpr'`` for those in ``constants``.
        constants: values of the ``tl.constexpr`` arguments.
        num_warps: number of warps of a program.
        num_stages: depth of software pipelining.
    """

    kernel: Any
    signature: Mapping[str, str | tuple[str, ...]]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2


def save_attention(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    """Save operands and results of an attention, whose second result is the log-sum-exp."""
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the log-sum-exp would be given zeros, by one more launch


def contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors, copied only if they are not contiguous."""
    return tuple(tensor.contiguous() for tensor in tensors)


def channels_last(x: Tensor) -> Tensor:
    """Return a map, copied only if it is not channels-last."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_channels_last(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a channels-last map on the device of another tensor."""
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


@triton.jit
def pixel_of(
    number: tl.tensor, height: tl.tensor, width: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return image, row and column of a pixel."""
    return number // (height * width), number // width % height, number % width


# TRITON_INTERPRET; triton.knobs tells it too, but not before Triton 3.4.
INTERPRETED = tl.constexpr(
    os.environ.get('TRITON_INTERPRET', '0').lower() in ('1', 'true', 'yes', 'on')
)


@triton.jit
def dot(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Multiply two matrices; the result is float32, for float32 without TF32."""
    if INTERPRETED:  # the interpreter of Triton 3.6 multiplies the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision='ieee')
