"""Registration of pools of several sizes."""

import torch

from mtp.ops.triton.adaptive_pools import adaptive_pools, adaptive_pools_backward


def test_operators_are_registered_rightly():
    x = torch.randn(2, 3, 6, 5)
    pools = [torch.randn(2, 3, side, side) for side in (1, 4)]
    for call, arguments in (
        (adaptive_pools, (x.requires_grad_(), [1, 4])),
        (adaptive_pools_backward, (pools, 6, 5)),
    ):
        torch.library.opcheck(
            call,
            arguments,
            test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
        )
