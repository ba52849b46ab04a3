"""DCNv3, the deformable convolution of InternImage, in plain torch.

Source: Wang et al., InternImage, CVPR 2023. Shapes: N images, G groups of C channels, K taps,
H x W input pixels and H' x W' output positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mtp.ops.deterministic import grid_sample
from mtp.ops.dispatch import gradients, twin_of, use_triton

# Largest number of channels per group that a program of the kernel can hold.
MOST_CHANNELS = 1024
# Samples computed at once, all channels of a group counting as one: bounds the memory of
# temporaries.
_SAMPLES_PER_CHUNK = 1 << 18
_undivided = False


@contextmanager
def undivided() -> Iterator[None]:
    """Compute all images at once in :func:`dcnv3_torch`.

    A graph that is traced meanwhile takes any number of images, as none of its operations are
    repeated for each chunk of them.
    """
    global _undivided
    before, _undivided = _undivided, True
    try:
        yield
    finally:
        _undivided = before


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    group_channels: int,
    offset_scale: float,
    remove_center: bool = False,
) -> Tensor:
    """Sum bilinear samples at learned positions times a mask over the taps of a square kernel.

    Group g of output position (j, i) samples tap (a, b) at the pixel

        x = i * stride - pad + h + offset_scale * (a * dilation - h + offset_x)
        y = j * stride - pad + h + offset_scale * (b * dilation - h + offset_y)

    with h = dilation * (kernel_size - 1) // 2. In the order of the taps, b varies faster than a.
    Pixels outside the image are 0. Differentiable in all three tensors.

    Args:
        input: feature maps ``(N, H, W, G * C)``.
        offset: offsets of the taps ``(N, H', W', G * K * 2)``, pixels, x before y.
        mask: weights of the taps ``(N, H', W', G * K)``, used without normalisation.
        kernel_size, stride, pad, dilation: parameters as in a convolution, for both axes; they
            determine H' and W'.
        group: number of groups G.
        group_channels: number of channels per group C.
        offset_scale: factor of both the grid of taps and the offsets.
        remove_center: whether to leave out the central tap: K = kernel_size**2 - 1. Requires an odd
            ``kernel_size``.

    Returns:
        Tensor: feature maps ``(N, H', W', G * C)``, the dtype of ``input``; computed in float32 or
        wider.

    Raises:
        ValueError: shapes, dtypes, devices or sizes do not fit.
    """
    _check(
        input,
        offset,
        mask,
        kernel_size,
        stride,
        pad,
        dilation,
        group,
        group_channels,
        remove_center,
    )
    form: Callable[..., Tensor]
    if group_channels <= MOST_CHANNELS and use_triton(input, offset, mask):
        from mtp.ops.triton.deform_conv import dcnv3 as form
    else:
        form = dcnv3_torch
    return form(
        input, offset, mask, kernel_size, stride, pad, dilation, group, offset_scale, remove_center
    )


@twin_of('dcnv3')
def dcnv3_torch(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    offset_scale: float,
    remove_center: bool,
) -> Tensor:
    """Compute :func:`dcnv3` with ``grid_sample``; backward keeps the K samples of every output."""
    dtype = torch.promote_types(
        torch.promote_types(input.dtype, offset.dtype),
        torch.promote_types(mask.dtype, torch.float32),
    )
    # filled on the device: copying a tensor made from a list would wait for it
    size = torch.stack([torch.full((), side, device=input.device) for side in input.shape[2:0:-1]])
    middle = dilation * (kernel_size - 1) // 2
    tap = torch.arange(mask.shape[3] // group, device=input.device)
    if remove_center:
        tap = tap + (tap >= kernel_size**2 // 2)
    tap = torch.stack([tap // kernel_size, tap % kernel_size], -1) * dilation - middle  # (K, 2)
    place = torch.stack(
        torch.meshgrid(
            *(torch.arange(side, device=input.device) for side in mask.shape[1:3]), indexing='ij'
        ),
        -1,
    )
    place = place.flip(-1).flatten(0, 1) * stride + middle + 0.5  # (H' * W', 2), x before y

    # As in the official code, positions without offsets are float32 fractions of the padded image,
    # which is visible in float64 results.
    padded = size + 2 * pad
    rest = place.float() / padded + (tap.float() / padded * offset_scale)[:, None]
    offset = offset.to(dtype).unflatten(3, (group, -1, 2)).permute(0, 3, 4, 1, 2, 5).flatten(3, 4)
    pixel = rest.to(dtype) * padded - pad + offset_scale * offset  # (N, G, K, H' * W', 2)
    grid = (2 * pixel / size - 1).flatten(0, 1)  # -1, 1: the outer edges of the image
    image = input.to(dtype).unflatten(3, (group, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    weight = mask.to(dtype).unflatten(3, (group, -1)).permute(0, 3, 4, 1, 2)
    weight = weight.flatten(3, 4).flatten(0, 1)[:, None]  # (N * G, 1, K, H' * W')

    if _undivided:
        chunks = [(image, grid, weight)]
    else:
        rows = max(1, _SAMPLES_PER_CHUNK // weight[0].numel()) if len(weight) else 1
        chunks = list(zip(*(t.split(rows) for t in (image, grid, weight))))
    out = torch.cat(
        [
            (grid_sample(image_i, grid_i, align_corners=False) * weight_i).sum(2)
            for image_i, grid_i, weight_i in chunks
        ]
    )
    out = out.unflatten(0, (-1, group)).unflatten(3, mask.shape[1:3]).permute(0, 3, 4, 1, 2)
    return out.flatten(3, 4).to(input.dtype)


@twin_of('dcnv3_backward')
def dcnv3_backward_torch(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    offset_scale: float,
    remove_center: bool,
) -> tuple[Tensor, ...]:
    """Return the gradients of input, offset and mask of :func:`dcnv3_torch`."""
    return gradients(
        lambda input, offset, mask: dcnv3_torch(
            input,
            offset,
            mask,
            kernel_size,
            stride,
            pad,
            dilation,
            group,
            offset_scale,
            remove_center,
        ),
        (input, offset, mask),
        grad_output,
    )


def _check(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    group_channels: int,
    remove_center: bool,
) -> None:
    if min(kernel_size, stride, dilation, group, group_channels) < 1 or pad < 0:
        raise ValueError(
            'kernel_size, stride, dilation, group and group_channels must be at least '
            f'1 and pad 0; got {kernel_size}, {stride}, {dilation}, {group}, '
            f'{group_channels} and {pad}'
        )
    if remove_center and kernel_size % 2 == 0:
        raise ValueError(f'a kernel of size {kernel_size} has no centre to remove: use an odd size')
    channels = group * group_channels
    if input.dim() != 4 or input.shape[3] != channels:
        raise ValueError(
            f'input must have shape (N, H, W, {group} groups x {group_channels} '
            f'channels = {channels}), channels last; got {tuple(input.shape)}'
        )
    reach = dilation * (kernel_size - 1) + 1
    out = [(side + 2 * pad - reach) // stride + 1 for side in input.shape[1:3]]
    if min(out) < 1 or min(input.shape[1:3]) < 1:
        raise ValueError(
            f'input of {input.shape[1]} x {input.shape[2]} pixels with pad {pad} is '
            f'smaller than the kernel, which reaches over {reach}'
        )
    taps = kernel_size**2 - int(remove_center)
    expected = [(input.shape[0], *out, group * taps * n) for n in (2, 1)]
    if [tuple(offset.shape), tuple(mask.shape)] != expected:
        raise ValueError(
            f'offset and mask must have shapes {expected[0]} and {expected[1]}; got '
            f'{tuple(offset.shape)} and {tuple(mask.shape)}'
        )
    if not all(tensor.is_floating_point() for tensor in (input, offset, mask)):
        raise ValueError(
            'input, offset and mask must be floating-point; got '
            f'{input.dtype}, {offset.dtype} and {mask.dtype}'
        )
    if not input.device == offset.device == mask.device:
        raise ValueError(
            'input, offset and mask must be on one device; got '
            f'{input.device}, {offset.device} and {mask.device}'
        )
