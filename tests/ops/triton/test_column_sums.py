"""Sums over the rows of many matrices: the kernels against float64."""

import pytest
import torch

from mtp.ops import column_sums, dispatch
from tests.ops.test_column_sums import make_operands, reference

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ('rows', 'addends', 'norms', 'widths'),
    [
        # up to three chunks, the last ones not full; a block that is not full
        (300, 1, 2, (130, 5, 128)),
        (7, 0, 1, (3, 16)),
        (129, 0, 0, (40,)),
    ],
)
def test_equals_the_sums_in_float64(rows, addends, norms, widths, dtype):
    operands = make_operands(rows, addends, norms, widths, dtype, DEVICE)
    found, expected = column_sums(*operands), reference(*operands)
    for result, wanted in zip(found, expected, strict=True):
        tolerance = 1e-5 if result.dtype == torch.float32 else 1e-2
        largest = float(wanted.abs().max())
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=tolerance * largest)


def test_other_layouts_are_copied():
    grads, *others = make_operands(40, 0, 0, (8,), torch.float32, DEVICE)
    found = column_sums([grads[0].T.contiguous().T], *others)
    torch.testing.assert_close(found, column_sums(grads, *others))


def test_runs_give_equal_bits():
    operands = make_operands(300, 1, 1, (70, 9), torch.float32, DEVICE)
    assert all(map(torch.equal, column_sums(*operands), column_sums(*operands)))
