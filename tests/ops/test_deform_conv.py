"""DCNv3: the torch form against recorded calls, finite differences and convolution."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mtp.ops import dcnv3, deform_conv

GOLDEN = [
    'k1s1p0_g2c4',
    'k2s1p0d1_g2c3',
    'k3_remove_center_g4c4',
    'k3s1p1d1_g2c8_scale2',
    'k3s1p1d1_g4c4',
    'k3s1p2d2_g2c4_scale05',
    'k3s2p1d1_g2c4',
    'k5_remove_center_g2c3',
    'k5s1p2d1_g3c5',
]
SETTINGS = (
    'kernel_size',
    'stride',
    'pad',
    'dilation',
    'group',
    'group_channels',
    'offset_scale',
    'remove_center',
)


def golden(shared: Path, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and arrays of a recorded call."""
    folder = shared / 'golden' / 'dcnv3'
    (entry,) = (
        entry
        for entry in json.loads((folder / 'index.json').read_text())['op']
        if entry['file'] == f'op_{name}.npz'
    )
    with np.load(folder / entry['file']) as file:
        data = {key: torch.from_numpy(value) for key, value in file.items()}
    return {key: entry['kernel' if key == 'kernel_size' else key] for key in SETTINGS}, data


def assert_golden(form, data: dict[str, torch.Tensor], settings: dict) -> None:
    tensors = [data[key].float().requires_grad_() for key in ('input', 'offset', 'mask')]
    out = form(*tensors, **settings)
    torch.testing.assert_close(out, data['out'], atol=5e-6, rtol=0)
    out.backward(data['cotangent'].float())
    for tensor, key in zip(tensors, ('grad_input', 'grad_offset', 'grad_mask')):
        torch.testing.assert_close(
            tensor.grad, data[key], rtol=0, atol=1e-5 * data[key].abs().max().item()
        )


@pytest.mark.parametrize('name', GOLDEN)
def test_golden(shared, name):
    settings, data = golden(shared, name)
    assert_golden(dcnv3, data, settings)
    out = dcnv3(*(data[key].double() for key in ('input', 'offset', 'mask')), **settings)
    torch.testing.assert_close(out, data['out_f64'], atol=1e-9, rtol=0)


def test_without_offsets_it_is_a_grouped_convolution():
    """Tap (a, b) lies in column a and row b: the mask is a kernel with its axes swapped."""
    group, channels, size = 3, 2, 3
    input = torch.randn(2, 9, 8, group * channels)
    kernel = torch.randn(group, size, size)
    expected = F.conv2d(
        input.permute(0, 3, 1, 2),
        kernel.mT.repeat_interleave(channels, 0)[:, None],
        stride=2,
        padding=1,
        groups=group * channels,
    ).permute(0, 2, 3, 1)
    mask = kernel.flatten().expand(*expected.shape[:3], -1)
    out = dcnv3(
        input,
        torch.zeros(*mask.shape[:3], 2 * mask.shape[3]),
        mask,
        size,
        2,
        1,
        1,
        group,
        channels,
        1.0,
    )
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('remove_center', [False, True])
def test_gradient_in_double(remove_center):
    taps = 9 - remove_center
    tensors = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 4, 4), (2, 2, 2, 4 * taps), (2, 2, 2, 2 * taps))
    ]
    assert torch.autograd.gradcheck(
        lambda *args: dcnv3(*args, 3, 2, 1, 1, 2, 2, 1.5, remove_center), tensors
    )


def test_chunks_do_not_show(monkeypatch):
    tensors = [torch.randn(2, 5, 6, size, requires_grad=True) for size in (6, 54, 27)]
    settings = (3, 1, 1, 1, 3, 2, 1.0)
    whole = dcnv3(*tensors, *settings)
    cotangent = torch.randn_like(whole)
    gradients = torch.autograd.grad(whole, tensors, cotangent)
    monkeypatch.setattr(deform_conv, '_SAMPLES_PER_CHUNK', 100)  # less than a group of an image
    parts = dcnv3(*tensors, *settings)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, tensors, cotangent), gradients)


def test_low_precision_samples_at_float32_positions():
    """bfloat16 has no room for positions, nor for a sum over taps."""
    input, offset = torch.randn(1, 20, 70, 8), torch.randn(1, 20, 70, 36)
    mask = torch.rand(1, 20, 70, 18).softmax(-1)
    input, expected = (
        input.bfloat16(),
        dcnv3(input.bfloat16().float(), offset, mask, 3, 1, 1, 1, 2, 4, 1.0),
    )
    out = dcnv3(input, offset, mask, 3, 1, 1, 1, 2, 4, 1.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected.bfloat16(), atol=0, rtol=0)


def test_compiles_in_one_graph():
    tensors = [torch.randn(2, 5, 6, size, requires_grad=True) for size in (6, 54, 27)]

    def function(*args):
        return dcnv3(*args, 3, 1, 1, 1, 3, 2, 1.0)

    eager = function(*tensors)
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')(*tensors)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(
        torch.autograd.grad(compiled.sum(), tensors), torch.autograd.grad(eager.sum(), tensors)
    )


WRONG = {
    'sizes': ({'stride': 0}, 'at least 1 and pad 0; got 3, 0'),
    'even': ({'kernel_size': 2, 'remove_center': True}, 'size 2 has no centre'),
    'groups': ({'group': 3}, r'3 groups x 4 channels = 12\), channels last; got \(1, 5, 6, 8\)'),
    'rank': ({'input': torch.zeros(5, 6, 8)}, r'channels last; got \(5, 6, 8\)'),
    'small': ({'pad': 0, 'dilation': 3}, '5 x 6 pixels with pad 0 is smaller .* over 7'),
    'offset': ({'offset': torch.zeros(1, 5, 6, 18)}, r'\(1, 5, 6, 36\) and .*; got \(1, 5, 6, 18'),
    'mask': ({'remove_center': True}, r'\(1, 5, 6, 32\) and \(1, 5, 6, 16\); got'),
    'dtype': ({'mask': torch.zeros(1, 5, 6, 18, dtype=torch.long)}, 'floating-point; .*int64'),
    'device': ({'input': torch.zeros(1, 5, 6, 8, device='meta')}, 'one device; got meta, cpu'),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_input(name):
    change, message = WRONG[name]
    arguments = {
        'input': torch.zeros(1, 5, 6, 8),
        'offset': torch.zeros(1, 5, 6, 36),
        'mask': torch.zeros(1, 5, 6, 18),
        'kernel_size': 3,
        'stride': 1,
        'pad': 1,
        'dilation': 1,
        'group': 2,
        'group_channels': 4,
        'offset_scale': 1.0,
    }
    with pytest.raises(ValueError, match=message):
        dcnv3(**{**arguments, **change})
