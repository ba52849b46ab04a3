"""What the kernels share."""

from dataclasses import dataclass, field
from typing import Any

import torch

# The spelling of dtypes in a compile case's signature, e.g. '*bf16' for a pointer.
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
    """A kernel with everything that decides its machine code.

    Attributes:
        kernel: the ``@triton.jit`` function.
        signature: argument -> Triton type, e.g. ``'*bf16'``, ``'i64'``; ``'constexpr'`` for those
            in ``constants``.
        constants: values of the ``tl.constexpr`` arguments.
        num_warps: of a program.
        num_stages: depth of software pipelining.
    """

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
