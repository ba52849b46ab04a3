"""The sigmoid focal loss kernels against their twin in torch."""

import pytest
import torch

from mtp.ops import focal_loss
from mtp.ops import sigmoid_focal_loss as dispatched
from mtp.ops.focal_loss import sigmoid_focal_loss_torch

kernels = pytest.importorskip('mtp.ops.triton.focal_loss')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def operands(rows, classes, scale=3.0, dtype=torch.float32):
    logits = (torch.randn(rows, classes, device=DEVICE) * scale).to(dtype).requires_grad_()
    return logits, torch.randint(0, classes + 1, (rows,), device=DEVICE)


def assert_equal(logits, target, gamma=2.0, weight=None, tolerance=1e-6):
    loss = kernels.sigmoid_focal_loss(logits, target, gamma, 0.25, weight)
    expected = sigmoid_focal_loss_torch(logits, target, gamma, 0.25, weight)
    assert loss.dtype == logits.dtype
    torch.testing.assert_close(loss, expected, atol=tolerance, rtol=tolerance)
    cotangent = torch.randn_like(loss)
    gradients = [torch.autograd.grad(form, logits, cotangent)[0] for form in (loss, expected)]
    torch.testing.assert_close(*gradients, atol=tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize('rows, classes', [(1, 1), (700, 3), (3, 1500), (64, 16), (1, 20)])
def test_rows_across_blocks(rows, classes):
    logits, target = operands(rows, classes)
    assert_equal(logits, target)
    assert_equal(logits, target, 1.5, torch.rand(classes, device=DEVICE))


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_extreme_logits(gamma):
    logits, target = operands(40, 5, scale=60)
    assert_equal(logits, target, gamma)
    loss = kernels.sigmoid_focal_loss(logits, target, gamma, 0.25, None)
    assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_low_precision(dtype, tolerance):
    assert_equal(*operands(90, 7, dtype=dtype), tolerance=tolerance)


def test_unknown_targets_are_background():
    logits, target = operands(6, 4)
    weight = torch.rand(4, device=DEVICE)
    wrong = torch.tensor([-1, 5, 4, 2**40, -7, 4], device=DEVICE)
    results = [
        form(logits, t, 2.0, 0.25, weight)
        for t in (wrong, torch.full_like(wrong, 4))
        for form in (kernels.sigmoid_focal_loss, sigmoid_focal_loss_torch)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_views_and_no_rows():
    logits, target = operands(30, 4)
    assert_equal(logits.T[:, :4], target[:4], weight=torch.rand(8, device=DEVICE)[::2])
    logits, target = operands(0, 4)
    kernels.sigmoid_focal_loss(logits, target, 2.0, 0.25, None).sum().backward()
    assert logits.grad.shape == (0, 4)


def test_dispatch_and_compile(monkeypatch):
    monkeypatch.setattr(focal_loss, 'use_triton', lambda *_: True)
    logits, target = operands(30, 4)
    weight = torch.rand(4, device=DEVICE)
    expected = sigmoid_focal_loss_torch(logits, target, 2.0, 0.25, weight)
    step = torch.compile(dispatched, fullgraph=True, backend='aot_eager')
    loss = step(logits, target, 2.0, 0.25, weight)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits)[0], gradient)
    derivative = focal_loss.sigmoid_focal_loss_derivative(logits, target, 2.0, 0.25, weight)
    torch.testing.assert_close(derivative, gradient)
    torch.library.opcheck(kernels.sigmoid_focal_loss, (logits, target, 2.0, 0.25, weight))
