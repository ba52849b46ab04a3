"""The library's sort as an operator."""

import torch

from mtp.ops import sort_rows


def test_rows_are_sorted_and_equal_values_stay_in_order():
    x = torch.tensor([[1.0, 3.0, 1.0, 3.0], [0.0, -torch.inf, 2.0, 0.0]])
    values, index = sort_rows(x)
    assert values.tolist() == [[3, 3, 1, 1], [2, 0, 0, -torch.inf]]
    assert index.tolist() == [[1, 3, 0, 2], [2, 0, 3, 1]]
    torch.library.opcheck(sort_rows, (x.t(),), test_utils=('test_schema', 'test_faketensor'))
