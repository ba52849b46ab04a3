"""The implementations that a GPU takes of some operators, for fake CUDA tensors without a GPU.

ATen asks the GPU which implementation of attention to take, and whether cuDNN takes bfloat16.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


@contextmanager
def forms_of_a_gpu() -> Iterator[None]:
    """Let attention and convolutions of fake CUDA tensors take the implementations of a GPU.

    The few real tensors that inductor makes on the GPU, to fold constants, are on the CPU.
    """
    library = torch.library.Library('aten', 'IMPL')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Warning only once', UserWarning)
        library.impl('scaled_dot_product_attention', _attention, 'AutogradCUDA')
        for name in ('empty.memory_format', 'empty_strided'):
            library.impl(name, functools.partial(_on_the_cpu, name), 'CUDA', allow_override=True)
    try:
        with patch.object(torch._C, '_select_conv_backend', _convolution_backend):
            yield
    finally:
        library._destroy()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Choose as ATen does on a GPU: flash attention, else the memory-efficient one."""
    padding = -query.shape[-1] % 8
    if padding:  # both implementations read 16 bytes at a time
        scale = scale or query.shape[-1] ** -0.5
        query, key, value = (F.pad(t, (0, padding)) for t in (query, key, value))
    if query.dtype.itemsize == 2 and attn_mask is None and query.shape[-1] <= 256:
        out = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
    else:
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, learns, dropout_p, is_causal, scale=scale
        )[0]
    return out[..., : value.shape[-1] - padding]


def _on_the_cpu(name: str, *args: Any, **kwargs: Any) -> Tensor:
    packet, _, overload = name.partition('.')
    make = getattr(getattr(aten, packet), overload or 'default')
    return make(*args, **kwargs | dict(device='cpu', pin_memory=False))


_select_conv_backend = torch._C._select_conv_backend


def _convolution_backend(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Choose the same backend for bfloat16 as for float32."""
    return _select_conv_backend(input.float(), weight.float(), *args, **kwargs)
