"""What tasks share to work on all images of a batch."""

import pytest
import torch

from mtp.models.tasks.base import TaskBatch, stack_rows


def test_all_rows_of_a_tensor_in_order_are_not_copied():
    whole = torch.arange(12).view(3, 4).clone()
    rows = list(whole)
    assert stack_rows(rows) is whole
    for others in (rows[:2], rows[::-1], [rows[0], rows[0], rows[2]], list(whole[:, :3].T)):
        stacked = stack_rows(others)
        assert stacked is not whole and torch.equal(stacked, torch.stack(others))


@pytest.mark.parametrize('sizes', [(2, 2), (1, 3)])
def test_sums_are_those_of_each_data_set(sizes):
    groups = dict(a=slice(0, sizes[0]), b=slice(sizes[0], 4))
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 1.0, 0.0, 2.0]])
    sums = TaskBatch([], groups, values.device).sums(values)
    expected = torch.stack([values[:, group].sum(1) for group in groups.values()], 1)
    assert torch.equal(sums, expected)
