"""Sigmoid focal loss."""

import pytest
import torch

from mtp.ops import sigmoid_focal_loss
from mtp.ops.focal_loss import sigmoid_focal_loss_derivative


def logits_and_target():
    return torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 2])  # 3: background


@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 2.0, 1.0])])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_equals_the_formula(gamma, weight):
    logits, target = logits_and_target()
    p = logits.sigmoid()
    positive = torch.eye(4, 3)[target].bool()
    p_t = torch.where(positive, p, 1 - p)
    alpha_t = torch.where(positive, 0.25, 0.75)
    expected = -alpha_t * (1 - p_t) ** gamma * p_t.log()
    if weight is not None:
        expected = expected * torch.cat([weight, torch.ones(1)])[target][:, None]
    loss = sigmoid_focal_loss(logits, target, gamma, 0.25, weight)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, target, gamma, 0.25, weight), logits.requires_grad_()
    )
    loss = sigmoid_focal_loss(logits, target, gamma, 0.25, weight)
    torch.testing.assert_close(
        sigmoid_focal_loss_derivative(logits, target, gamma, 0.25, weight),
        torch.autograd.grad(loss.sum(), logits)[0],
        atol=1e-12,
        rtol=1e-12,
    )


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_certain_predictions_have_finite_loss_and_gradient(gamma):
    """A right one costs nothing, a wrong one its logit, whatever gamma."""
    logits = torch.tensor([[80.0, 80.0, -80.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0]), gamma, 0.25)
    torch.testing.assert_close(loss, torch.tensor([[0.0, 0.75 * 80, 0.0]]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.75, 0.0]]))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype):
    logits, target = logits_and_target()
    logits = logits.to(dtype)
    loss = sigmoid_focal_loss(logits, target)
    assert loss.dtype == dtype
    assert torch.equal(loss, sigmoid_focal_loss(logits.float(), target).to(dtype))


def test_no_rows():
    logits = torch.zeros(0, 3, requires_grad=True)
    sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long)).sum().backward()
    assert logits.grad.shape == (0, 3)


def test_wrong_input():
    logits, target = logits_and_target()
    for wrong, message in (
        ((logits[0], target), r'\(N, C\)'),
        ((logits, target[:2]), r'\(N,\)'),
        ((logits, target.int()), 'int64'),
        ((logits, target + 1), r'0\.\.3'),
        ((logits, target - 1), r'0\.\.3'),
        ((logits, target, 2.0, 0.25, logits[0, :2]), '3 classes'),
    ):
        with pytest.raises(ValueError, match=message):
            sigmoid_focal_loss(*wrong)
