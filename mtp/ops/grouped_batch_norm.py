"""Batch normalisation of a batch of several groups of images, each with its own statistics.

It takes three operators, each a single node of a compiled graph: sums over each group, statistics
from them, and the normalised maps. The backward pass takes two: sums, and the gradient of the maps.
Groups of few pixels take one operator in each direction, within a process. Each operator runs as a
kernel or its twin in torch; within a process, torch's own batch norm stands in for all twins. Kept
for the backward pass are the maps, and mean and 1 / deviation of each group. Over all processes,
another operator adds up the sums, with one all-reduce for all groups in each direction.

A process that runs compiled layers must issue the same collectives in the same order as one that
runs them uncompiled, but a compiler may reorder independent layers. The operator over all processes
is therefore registered with an ordered effect: in compiled code, each call depends on the previous
one (see ``mtp.compat.support_ordered_effects``). Compiled or not, gradients are computed in the
reverse order of the calls. The collectives use a process group of their own, because DDP reduces
gradients between two layers if these run uncompiled, but after the last one if they are compiled.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op

from mtp.ops.dispatch import BATCH_NORM_FEW_ROWS, BATCH_NORM_SPLITS, twin_of, use_triton

# the default process group -> the group of the collectives here
_process_groups: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def grouped_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
    synced: bool = False,
    relu: bool = False,
) -> Tensor:
    """Normalise each group of images with its own mean and variance.

    Equal to one call of ``nn.BatchNorm2d`` in training per group, in order, including its updates
    of the running statistics. Differentiable in ``x``, ``weight`` and ``bias``.

    Args:
        x: feature maps ``(B, C, H, W)``, the images of a group consecutive. Channels-last and
            contiguous maps are taken as they are, others are copied.
        weight: scale of each channel, ``(C,)``.
        bias: offset of each channel, ``(C,)``.
        running_mean: running mean ``(C,)``, updated in place once per group.
        running_var: running variance ``(C,)``, updated in place once per group.
        num_batches_tracked: number of updates of the running statistics, int64 ``()``; raised by
            the number of groups.
        sizes: number of images in each group.
        momentum: weight of a group in the running statistics.
        eps: number added to the variance.
        synced: whether a group's statistics are shared by all processes.
        relu: whether a ReLU follows.

    Returns:
        Tensor: normalised maps, the shape and dtype of ``x``; computed in float32 or wider.

    Raises:
        ValueError: the sizes do not add up to the batch.
    """
    _check_sizes(sizes, x)
    running = running_mean, running_var, num_batches_tracked
    few = max(sizes) * x.shape[2] * x.shape[3] <= BATCH_NORM_FEW_ROWS
    if few and not synced and use_triton(x, weight, running_mean):
        x = _dense_like(x, x)
        return _FewRows.apply(x, weight, bias, *running, sizes, momentum, eps, relu)
    x, normalise = deferred_batch_norm(
        x, weight, bias, *running, sizes, momentum, eps, synced, relu
    )
    return normalise(x)


def deferred_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
    synced: bool = False,
    relu: bool = False,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Compute the statistics of :func:`grouped_batch_norm`, and leave the rest to a function.

    Arguments and errors are the same.

    Returns:
        tuple: maps, and the function that normalises them. It changes nothing else, so a backward
        pass can call it again instead of keeping its result. Within a process, where no kernel
        takes the maps, they are normalised already, and the function returns them.
    """
    _check_sizes(sizes, x)
    running = running_mean, running_var, num_batches_tracked
    if not (synced or use_triton(x, weight, running_mean)):
        out = grouped_batch_norm_torch(x, weight, bias, *running, sizes, momentum, eps, relu)
        return out, _unchanged
    x = _dense_like(x, x)
    sums = torch.ops.mtp.batch_norm_sums(x.detach(), sizes)
    if synced:
        sums = torch.ops.mtp.sum_over_processes(sums)
    statistics = torch.ops.mtp.batch_norm_statistics(*running, sums, momentum, eps)

    def normalise(x: Tensor) -> Tensor:
        return torch.ops.mtp.batch_normalise(x, weight, bias, *statistics, sizes, synced, relu)

    return x, normalise


def _check_sizes(sizes: Sequence[int], x: Tensor) -> None:
    if sum(sizes) != len(x):
        raise ValueError(f'sizes={list(sizes)} must add up to the {len(x)} images of the batch')


def _unchanged(x: Tensor) -> Tensor:
    return x


class _FewRows(torch.autograd.Function):
    """Normalised maps: torch registers no gradients for operators that change their operands."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        num_batches_tracked: Tensor,
        sizes: Sequence[int],
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        running = running_mean, running_var, num_batches_tracked
        out, mean, invstd = torch.ops.mtp.batch_norm_of_few(
            x, weight, bias, *running, sizes, momentum, eps, relu
        )
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        ctx.sizes, ctx.relu = sizes, relu
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *others = ctx.saved_tensors
        grads = torch.ops.mtp.batch_norm_of_few_backward(
            _dense_like(grad, x), x, *others, ctx.sizes, ctx.relu
        )
        return *grads, *(None,) * 7


def grouped_batch_norm_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
    relu: bool = False,
) -> Tensor:
    """Compute :func:`grouped_batch_norm` within this process by torch's batch norm."""
    num_batches_tracked += len(sizes)
    parts = [
        F.batch_norm(part, running_mean, running_var, weight, bias, True, momentum, eps)
        for part in x.split(sizes)
    ]
    out = torch.cat(parts) if len(parts) > 1 else parts[0]
    return F.relu(out, inplace=True) if relu else out


@twin_of('batch_norm_sums')
def batch_norm_sums(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the sums of each group that :func:`batch_norm_statistics` needs.

    Returns:
        Tensor: each channel's sum of values, its sum of squares, and the number of pixels, float64
        ``(parts, groups, 2 * C + 1)``, to be added over the parts of the batch.
    """
    sums = x.new_zeros(BATCH_NORM_SPLITS, len(sizes), 2 * x.shape[1] + 1, dtype=torch.float64)
    for i, part in enumerate(_wide(x).split(sizes)):
        var, mean = torch.var_mean(part, (0, 2, 3), correction=0)
        mean = mean.double()
        moments = torch.cat([mean, var.double() + mean.square(), mean.new_ones(1)])
        sums[0, i] = moments * part[:, 0].numel()
    return sums


@twin_of('batch_norm_statistics')
def batch_norm_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sums: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and 1 / deviation ``(groups, C)`` and the number of pixels ``(groups, 1)``.

    Updates the running statistics in place.
    """
    sums, channels = sums.sum(0), len(running_mean)
    count = sums[:, -1:].clone()
    mean = sums[:, :channels] / count
    var = (sums[:, channels:-1] / count - mean.square()).clamp(min=0)
    unbiased = var * (count / (count - 1))
    for mean_i, var_i in zip(mean, unbiased):
        running_mean.lerp_(mean_i.to(running_mean.dtype), momentum)
        running_var.lerp_(var_i.to(running_var.dtype), momentum)
    num_batches_tracked += len(sums)
    dtype = torch.promote_types(running_mean.dtype, torch.float32)
    return mean.to(dtype), (var + eps).rsqrt().to(dtype), count.to(dtype)


@twin_of('batch_normalise')
def batch_normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    count: Tensor,
    sizes: Sequence[int],
    synced: bool,
    relu: bool,
) -> Tensor:
    """Return the normalised maps, after a ReLU if ``relu``; ``invstd`` already includes ``eps``.

    Differentiable in the first three, through the statistics too, which ``synced`` processes share.
    """
    del count, synced  # only of the gradient
    out, _ = _normalised(x, weight, bias, mean, invstd, sizes)
    return torch.empty_like(x).copy_(out.relu_() if relu else out)


@twin_of('batch_normalise_backward_sums')
def batch_normalise_backward_sums(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sizes: Sequence[int],
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of each group that :func:`batch_normalise_backward` needs.

    Returns:
        tuple[Tensor, Tensor, Tensor]: each channel's sum of gradients and its sum of gradients
        times centred values ``(groups, 2 * C)``; gradients of weight and bias, this process's share
        where several share the statistics.
    """
    out, centred = _normalised(x, weight, bias, mean, invstd, sizes)
    grad = _before_relu(grad, out, relu)
    total, slope = (
        torch.stack([part.sum((0, 2, 3)) for part in t.split(sizes)])
        for t in (grad, grad * centred)
    )
    of_weight, of_bias = (slope * invstd).sum(0), total.sum(0)
    return torch.cat([total, slope], 1), of_weight.to(weight.dtype), of_bias.to(bias.dtype)


@twin_of('batch_normalise_backward')
def batch_normalise_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    count: Tensor,
    sums: Tensor,
    sizes: Sequence[int],
    relu: bool,
) -> Tensor:
    """Return the gradient of the maps."""
    out, centred = _normalised(x, weight, bias, mean, invstd, sizes)
    total, slope = (sums / count).chunk(2, 1)
    grad_x = _before_relu(grad, out, relu) - _of_images(total, sizes)
    grad_x -= centred * _of_images(slope * invstd.square(), sizes)
    return torch.empty_like(x).copy_(grad_x * _of_images(invstd * weight, sizes))


@twin_of('batch_norm_of_few')
def batch_norm_of_few(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised maps, and mean and 1 / deviation ``(groups, C)``.

    Updates the running statistics in place.
    """
    running = running_mean, running_var, num_batches_tracked
    mean, invstd, count = batch_norm_statistics(*running, batch_norm_sums(x, sizes), momentum, eps)
    out = batch_normalise(x, weight, bias, mean, invstd, count, sizes, False, relu)
    return out, mean, invstd


@twin_of('batch_norm_of_few_backward')
def batch_norm_of_few_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sizes: Sequence[int],
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of maps, weight and bias."""
    tensors = grad, x, weight, bias, mean, invstd
    sums, of_weight, of_bias = batch_normalise_backward_sums(*tensors, sizes, relu)
    pixels = x.shape[2] * x.shape[3]
    count = mean.new_tensor([[size * pixels] for size in sizes])
    return batch_normalise_backward(*tensors, count, sums, sizes, relu), of_weight, of_bias


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum ``(1, ...)`` over the first dimension and all processes."""
    total = x.sum(0, keepdim=True)
    _all_reduce(total)
    return total


def _all_reduce(x: Tensor) -> None:
    """Sum ``x`` over all processes, in place."""
    world = dist.group.WORLD
    if world not in _process_groups:
        _process_groups[world] = dist.new_group()
    dist.all_reduce(x, group=_process_groups[world])


def _normalised(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return normalised maps before the ReLU, and centred ones, in float32 or wider."""
    centred = _wide(x) - _of_images(mean, sizes)
    return bias[:, None, None] + centred * _of_images(invstd * weight, sizes), centred


def _before_relu(grad: Tensor, out: Tensor, relu: bool) -> Tensor:
    """Return the gradient of what the ReLU took, in float32 or wider."""
    return _wide(grad.where(~(out <= 0), 0) if relu else grad)


def _of_images(numbers: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return ``(B, C, 1, 1)`` from numbers of each group ``(groups, C)``."""
    parts = [of_group.expand(size, -1) for of_group, size in zip(numbers, sizes)]
    return torch.cat(parts)[:, :, None, None]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _dense_like(x: Tensor, other: Tensor) -> Tensor:
    """Return ``x`` contiguous, channels-last where ``other`` is."""
    last = other.is_contiguous(memory_format=torch.channels_last) and not other.is_contiguous()
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _fake_sums(x: Tensor, sizes: Sequence[int]) -> Tensor:
    shape = BATCH_NORM_SPLITS, len(sizes), 2 * x.shape[1] + 1
    return x.new_empty(shape, dtype=torch.float64)


def _fake_statistics(
    running_mean: Tensor, _var: Tensor, _number: Tensor, sums: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    groups, channels = sums.shape[1], len(running_mean)
    dtype = torch.promote_types(running_mean.dtype, torch.float32)
    mean, invstd, count = (
        running_mean.new_empty(groups, number, dtype=dtype) for number in (channels, channels, 1)
    )
    return mean, invstd, count


def _fake_maps(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    groups, channels = mean.shape
    sums = mean.new_empty(groups, 2 * channels)
    return sums, torch.empty_like(weight), torch.empty_like(bias)


def _fake_few(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    _var: Tensor,
    _number: Tensor,
    sizes: Sequence[int],
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(running_mean.dtype, torch.float32)
    mean, invstd = (
        running_mean.new_empty(len(sizes), len(running_mean), dtype=dtype) for _ in range(2)
    )
    return torch.empty_like(x), mean, invstd


def _fake_few_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _fake_sum(x: Tensor) -> Tensor:
    return x.new_empty(1, *x.shape[1:])


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.sizes, ctx.synced, ctx.relu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, invstd, count = ctx.saved_tensors
    tensors = _dense_like(grad, x), x, weight, bias, mean, invstd
    sums, *of_parameters = torch.ops.mtp.batch_normalise_backward_sums(
        *tensors, ctx.sizes, ctx.relu
    )
    if ctx.synced:
        sums = torch.ops.mtp.sum_over_processes(sums[None])[0]
    grad_x = torch.ops.mtp.batch_normalise_backward(*tensors, count, sums, ctx.sizes, ctx.relu)
    return grad_x, *of_parameters, *(None,) * 6


def _define(function: Callable, fake: Callable, mutates: tuple[str, ...] = ()) -> str:
    """Register a function as an operator and return its name."""
    name = f'mtp::{function.__name__}'
    # Compiled convolutions are channels-last: without the tag, maps would be copied back and forth.
    torch.library.define(
        name,
        torch.library.infer_schema(function, mutates_args=mutates),
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
    )
    torch.library.impl(name, ('cpu', 'cuda'), function)
    torch.library.register_fake(name, fake)
    return name


def _kernel_or(twin: Callable) -> Callable:
    """Return a function that runs the kernel of a twin where the first operand has one."""

    @functools.wraps(twin)
    def run(*args: Any) -> Any:
        if not use_triton(args[0]):
            return twin(*args)
        from mtp.ops.triton import grouped_batch_norm as kernels

        return getattr(kernels, twin.__name__)(*args)

    return run


def _register() -> None:
    running = 'running_mean', 'running_var', 'num_batches_tracked'
    _define(_kernel_or(batch_norm_sums), _fake_sums)
    _define(_kernel_or(batch_norm_statistics), _fake_statistics, mutates=running)
    normalise = _define(_kernel_or(batch_normalise), _fake_maps)
    torch.library.register_autograd(normalise, _gradients, setup_context=_save)
    _define(_kernel_or(batch_normalise_backward_sums), _fake_gradients)
    _define(_kernel_or(batch_normalise_backward), _fake_maps)
    _define(_kernel_or(batch_norm_of_few), _fake_few, mutates=running)
    _define(_kernel_or(batch_norm_of_few_backward), _fake_few_gradients)
    _register_effectful_op(_define(sum_over_processes, _fake_sum), _EffectType.ORDERED)


_register()
