"""Maps for several consumers: the kernels against autograd in float64."""

import pytest
import torch

from mtp.ops import dispatch
from tests.ops.test_share_maps import make, of_operator, plain, run

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


def operands_of(dtype, layout=torch.channels_last):
    maps, biases = make(dtype, layout)
    return [x.to(DEVICE) for x in (*maps, *biases)]


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_results_and_gradients_are_autograds(dtype, layout):
    operands = operands_of(dtype, layout)
    found, expected = run(of_operator, operands), run(plain, [x.double() for x in operands])
    for result, wanted in zip(found, expected, strict=True):
        assert result.dtype == dtype and result.shape == wanted.shape
        tolerance = 4 * torch.finfo(dtype).eps * float(wanted.abs().max())
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.usefixtures('deterministic')
def test_runs_give_equal_bits():
    operands = operands_of(torch.float32)
    assert all(map(torch.equal, run(of_operator, operands), run(of_operator, operands)))
