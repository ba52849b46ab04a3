"""Dtype names and the compile case, shared by all kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

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
