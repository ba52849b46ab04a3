"""The twin of the operator that turns weights, and its registration."""

import torch

from mtp.ops import lay_out_weights
from mtp.ops.triton.weight_layouts import lay_out_weights as operator


def test_the_twin_casts_and_turns():
    weight = torch.randn(4, 3, 2, 2)
    (turned,) = lay_out_weights([weight], torch.bfloat16, True)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    (back,) = lay_out_weights([turned], torch.float32, False)
    assert back.is_contiguous() and back.equal(weight.bfloat16().float())


def test_operator_is_registered_rightly():
    weights = [torch.randn(4, 3, 2, 2), torch.randn(2, 5, 3, 3)]
    for arguments in ((weights, torch.bfloat16, True), (weights, torch.float16, False)):
        torch.library.opcheck(operator, arguments, test_utils=('test_schema', 'test_faketensor'))
