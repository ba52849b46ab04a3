"""bfloat16 autocast on the CPU as on a GPU, for steps that need numbers."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

# Operators that CUDA's autocast runs in bfloat16, and those that it runs in the widest type of
# their operands (torch 2.11, aten/src/ATen/autocast_mode.h). It runs its other ones in float32.
LOWER = {
    '_convolution', 'conv1d', 'conv2d', 'conv3d', 'conv_tbc', 'conv_transpose1d',
    'conv_transpose2d', 'conv_transpose3d', 'convolution', 'prelu', 'addmm', 'addmv', 'addr',
    'matmul', 'einsum', 'mm', 'mv', 'linalg_vecdot', 'linear', 'addbmm', 'baddbmm', 'bmm',
    'chain_matmul', 'linalg_multi_dot', 'scaled_dot_product_attention', 'lstm_cell', 'gru_cell',
    'rnn_tanh_cell', 'rnn_relu_cell', '_thnn_fused_lstm_cell', '_thnn_fused_gru_cell',
    '_scaled_dot_product_flash_attention', 'cudnn_convolution', 'cudnn_convolution_transpose',
}  # fmt: skip
PROMOTED = {
    'addcdiv',
    'addcmul',
    'atan2',
    'bilinear',
    'cross',
    'dot',
    'vdot',
    'grid_sampler',
    'index_put',
    'tensordot',
    'scatter_add',
}
CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


@contextmanager
def lists_of_cuda() -> Iterator[None]:
    """Give the CPU's autocast CUDA's lists of operators."""
    library = torch.library.Library('aten', 'IMPL')
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith('aten::'):
            _replace(library, name)
    try:
        yield
    finally:
        library._destroy()


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Enable bfloat16 autocast of CUDA and of the CPU."""
    with on_cuda(), torch.autocast('cpu', torch.bfloat16):
        yield


@contextmanager
def on_cuda() -> Iterator[None]:
    """Enable bfloat16 autocast of CUDA, which ``torch.autocast`` refuses without a GPU."""
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled('cuda', before[0])
        torch.set_autocast_dtype('cuda', before[1])


def _replace(library: torch.library.Library, name: str) -> None:
    """Give an operator the same autocast on the CPU as on CUDA."""
    packet, _, overload = name.removeprefix('aten::').partition('.')
    if torch._C._dispatch_has_kernel_for_dispatch_key(name, 'AutocastCUDA'):
        operator = getattr(getattr(torch.ops.aten, packet), overload or 'default')
        kernel = functools.partial(_cast, operator, _dtype(packet))
    elif torch._C._dispatch_has_kernel_for_dispatch_key(name, 'AutocastCPU'):
        kernel = torch.library.fallthrough_kernel
    else:
        return
    library.impl(name.removeprefix('aten::'), kernel, 'AutocastCPU', allow_override=True)


def _dtype(packet: str) -> torch.dtype | None:
    if packet in PROMOTED:
        return None
    return torch.bfloat16 if packet in LOWER else torch.float32


def _cast(operator: Callable, dtype: torch.dtype | None, /, *args: Any, **kwargs: Any) -> Any:
    floats = [
        t
        for t in pytree.tree_leaves((args, kwargs))
        if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64
    ]
    if dtype is None:
        dtype = max((t.dtype for t in floats), key=lambda d: d.itemsize, default=torch.float32)

    def cast(value: Any) -> Any:
        return value.to(dtype) if any(value is t for t in floats) else value

    with torch._C._ExcludeDispatchKeyGuard(CPU):
        if kwargs.get('dtype') is None:
            args, kwargs = pytree.tree_map(cast, (args, kwargs))
        return operator(*args, **kwargs)
