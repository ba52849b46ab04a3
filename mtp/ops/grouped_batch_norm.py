"""Batch normalisation of a batch of several groups of images, each with its own statistics.

There are two operators, each a single node of a compiled graph and of its gradient's. One works
within a process, with torch's batch norm. The other works over all processes, with one all-reduce
for all groups in each direction.

A process that runs compiled layers must issue the same collectives in the same order as one that
runs them uncompiled, but a compiler may reorder independent layers. The operators over all
processes are therefore registered with an ordered effect: in compiled code, each call depends on
the previous one (see ``mtp.compat.support_ordered_effects``). Compiled or not, gradients are
computed in the reverse order of the calls. The collectives use a process group of their own,
because DDP reduces gradients between two layers if these run uncompiled, but after the last one if
they are compiled.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op
from torch._ops import OpOverload

# the default process group -> the group of the collectives here
_process_groups: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def grouped_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
    synced: bool = False,
) -> Tensor:
    """Normalise each group of images with its own mean and variance.

    Equal to one call of ``F.batch_norm(..., training=True)`` per group, in order, including its
    updates of the running statistics. Differentiable in ``x``, ``weight`` and ``bias``.

    Args:
        x: feature maps ``(B, C, H, W)``, the images of a group consecutive.
        weight: scale of each channel, ``(C,)``.
        bias: offset of each channel, ``(C,)``.
        running_mean: running mean ``(C,)``, updated in place once per group.
        running_var: running variance ``(C,)``, updated in place once per group.
        sizes: number of images in each group.
        momentum: weight of a group in the running statistics.
        eps: number added to the variance.
        synced: whether a group's statistics are shared by all processes.

    Returns:
        Tensor: normalised maps, the shape and dtype of ``x``; computed in float32 or wider.

    Raises:
        ValueError: the sizes do not add up to the batch.
    """
    if sum(sizes) != len(x):
        raise ValueError(f'sizes={list(sizes)} must add up to the {len(x)} images of the batch')
    normalise = torch.ops.mtp.synced_batch_norm if synced else torch.ops.mtp.local_batch_norm
    out, new_mean, new_var, *_ = normalise(
        x, weight, bias, running_mean, running_var, sizes, momentum, eps
    )
    with torch.no_grad():
        running_mean.copy_(new_mean)
        running_var.copy_(new_var)
    return out


def local_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the result, the new running statistics, and mean and 1 / deviation of each group."""
    running_mean, running_var = running_mean.clone(), running_var.clone()
    x, out = _dense(x), _empty_like(x)
    mean, invstd = (running_mean.new_empty(len(sizes), x.shape[1]) for _ in range(2))
    for i, (x_i, out_i) in enumerate(zip(x.split(sizes), out.split(sizes))):
        torch.ops.aten.native_batch_norm.out(
            x_i,
            weight,
            bias,
            running_mean,
            running_var,
            True,
            momentum,
            eps,
            out=out_i,
            save_mean=mean[i],
            save_invstd=invstd[i],
        )
    return out, running_mean, running_var, mean, invstd


def local_batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sizes: Sequence[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the maps, the weight and the bias."""
    grad_x, of_weight, of_bias = _empty_like(x), [], []
    groups = _split(sizes, _dense_like(grad, x), _dense(x), grad_x)
    for (grad_i, x_i, grad_x_i), mean_i, invstd_i in zip(groups, mean, invstd):
        found, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad_i, x_i, weight, None, None, mean_i, invstd_i, True, eps, [True] * 3
        )
        grad_x_i.copy_(found)
        of_weight.append(grad_weight)
        of_bias.append(grad_bias)
    return grad_x, _sum(of_weight), _sum(of_bias)


def synced_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the results of :func:`local_batch_norm`, and the number of pixels in each group."""
    stats, elementwise, *_ = _kernels(x)
    x, out = _dense(x), _empty_like(x)
    mean, invstd = map(torch.stack, zip(*(stats(x_i, eps) for x_i in x.split(sizes))))
    count = mean.new_empty(len(sizes), 1)
    for i, size in enumerate(sizes):
        count[i].fill_(size * x.shape[2] * x.shape[3])
    # Sums are taken about the running mean: in float32, E[x^2] - E[x]^2 would suffer from
    # cancellation for maps whose mean is far from zero.
    offset = mean - running_mean
    square = invstd.pow(-2) - eps + offset.square()
    total = torch.cat([offset * count, square * count, count], 1)
    _all_reduce(total)
    count = total[:, -1:].clone()
    offset, square = (total[:, :-1] / count).chunk(2, 1)
    mean, var = offset + running_mean, (square - offset.square()).clamp(min=0)
    invstd = (var + eps).rsqrt()
    for x_i, out_i, mean_i, invstd_i in zip(x.split(sizes), out.split(sizes), mean, invstd):
        elementwise(x_i, weight, bias, mean_i, invstd_i, eps, out=out_i)
    unbiased = var * (count / (count - 1))
    for mean_i, var_i in zip(mean, unbiased):
        running_mean = running_mean.lerp(mean_i, momentum)
        running_var = running_var.lerp(var_i, momentum)
    return out, running_mean, running_var, mean, invstd, count


def synced_batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    invstd: Tensor,
    count: Tensor,
    sizes: Sequence[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the maps, and this process's share of those of weight and bias."""
    *_, reduce, elementwise = _kernels(x)
    grad_x = _empty_like(x)
    groups = [*zip(_split(sizes, _dense_like(grad, x), _dense(x), grad_x), mean, invstd)]
    sums, sums_centred, of_weight, of_bias = zip(
        *(
            reduce(grad_i, x_i, mean_i, invstd_i, weight, True, True, True)
            for (grad_i, x_i, _), mean_i, invstd_i in groups
        )
    )
    total = torch.cat([torch.stack(sums), torch.stack(sums_centred)], 1)
    _all_reduce(total)
    count = count.int()
    for i, ((grad_i, x_i, grad_x_i), mean_i, invstd_i) in enumerate(groups):
        grad_x_i.copy_(
            elementwise(grad_i, x_i, mean_i, invstd_i, weight, *total[i].chunk(2), count[i])
        )
    return grad_x, _sum(of_weight), _sum(of_bias)


def _all_reduce(x: Tensor) -> None:
    """Sum ``x`` over all processes, in place."""
    world = dist.group.WORLD
    if world not in _process_groups:
        _process_groups[world] = dist.new_group()
    dist.all_reduce(x, group=_process_groups[world])


def _kernels(x: Tensor) -> tuple[Callable, Callable, Callable, Callable]:
    """Return the kernels of torch's ``SyncBatchNorm`` on a GPU, elsewhere their equivalents."""
    if x.is_cuda:
        return (
            torch.batch_norm_stats,
            torch.ops.aten.batch_norm_elemt.out,
            torch.batch_norm_backward_reduce,
            torch.batch_norm_backward_elemt,
        )
    return stats_torch, elementwise_torch, reduce_torch, backward_elementwise_torch


def stats_torch(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and 1 / deviation."""
    var, mean = torch.var_mean(_wide(x), (0, 2, 3), correction=0)
    return mean, (var + eps).rsqrt()


def elementwise_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    eps: float,
    *,
    out: Tensor,
) -> Tensor:
    """Write the normalised maps to ``out``; ``invstd`` already includes ``eps``."""
    centred = _wide(x) - mean[:, None, None]
    return out.copy_(torch.addcmul(bias[:, None, None], centred, (invstd * weight)[:, None, None]))


def reduce_torch(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, *wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for each channel the sums of the gradient and of gradient times centred maps, and the
    gradients of weight and bias."""
    grad = _wide(grad)
    total = grad.sum((0, 2, 3))
    centred = (grad * (_wide(x) - mean[:, None, None])).sum((0, 2, 3))
    return total, centred, (centred * invstd).to(weight.dtype), total.to(weight.dtype)


def backward_elementwise_torch(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    total: Tensor,
    centred: Tensor,
    count: Tensor,
) -> Tensor:
    """Return the gradient of the maps, given the sums of :func:`reduce_torch`."""
    slope = centred / count * invstd.square()
    grad_x = _wide(grad) - (total / count)[:, None, None]
    grad_x -= (_wide(x) - mean[:, None, None]) * slope[:, None, None]
    return (grad_x * (invstd * weight)[:, None, None]).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _sum(gradients: Sequence[Tensor]) -> Tensor:
    # in autograd's order, which starts with the last group
    return functools.reduce(torch.add, reversed(gradients))


def _split(sizes: Sequence[int], *maps: Tensor) -> list[tuple[Tensor, ...]]:
    return [*zip(*(x.split(sizes) for x in maps))]


def _layout(x: Tensor) -> torch.memory_format:
    """Return the layout in which the kernels take maps like ``x``."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=_layout(x))


def _dense(x: Tensor) -> Tensor:
    return _dense_like(x, x)


def _dense_like(x: Tensor, other: Tensor) -> Tensor:
    return x.contiguous(memory_format=_layout(other))


def _fake_local(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...]:
    mean, invstd = (running_mean.new_empty(len(sizes), x.shape[1]) for _ in range(2))
    return (
        _empty_like(x),
        torch.empty_like(running_mean),
        torch.empty_like(running_var),
        mean,
        invstd,
    )


def _fake_synced(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *outputs, invstd = _fake_local(x, *args)
    return *outputs, invstd, invstd.new_empty(len(invstd), 1)


def _fake_gradients(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


def _define(function: Callable, fake: Callable) -> OpOverload:
    """Register a function as an operator and return it."""
    name = f'mtp::{function.__name__}'
    # Compiled convolutions are channels-last: without the tag, maps would be copied back and forth.
    torch.library.define(
        name,
        torch.library.infer_schema(function, mutates_args=()),
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
    )
    torch.library.impl(name, 'default', function)
    torch.library.register_fake(name, fake)
    return getattr(torch.ops.mtp, function.__name__).default


def _make_differentiable(forward: OpOverload, backward: OpOverload) -> None:
    def keep(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, *_, ctx.sizes, _, ctx.eps = inputs
        ctx.save_for_backward(x, weight, *output[3:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    def gradients(ctx: Any, grad: Tensor | None, *_: None) -> tuple:
        found = (None,) * 3
        if grad is not None:
            found = backward(grad, *ctx.saved_tensors, ctx.sizes, ctx.eps)
        return *found, *(None,) * 5

    torch.library.register_autograd(forward.name(), gradients, setup_context=keep)


def _register() -> None:
    local = (
        _define(local_batch_norm, _fake_local),
        _define(local_batch_norm_backward, _fake_gradients),
    )
    synced = (
        _define(synced_batch_norm, _fake_synced),
        _define(synced_batch_norm_backward, _fake_gradients),
    )
    _make_differentiable(*local)
    _make_differentiable(*synced)
    for operator in synced:
        _register_effectful_op(operator, _EffectType.ORDERED)


_register()
