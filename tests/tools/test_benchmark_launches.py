"""What counts as a launch, and what the host waits for."""

from pathlib import Path

import pytest
import torch

from mtp.models.backbones import RotatedWindowAttention
from tools.benchmark.counting.launches import LaunchCounter
from tools.benchmark.counting.opened_launches import opened_launches

LINEAR = {'aten::addmm', 'aten::mm', 'aten::sum'}  # linear layers and their gradients


def test_forward_and_backward_launches_count_and_views_do_not():
    weight = torch.ones(3, 3, requires_grad=True)
    with LaunchCounter() as counter:
        (torch.empty(2, 3).detach().t().reshape(2, 3) @ weight.t()).sum().backward()
    operators = {name for name, _ in counter.launches}
    assert operators == {'aten::clone', 'aten::mm', 'aten::sum', 'aten::ones_like'}
    assert sum(n for (name, _), n in counter.launches.items() if name == 'aten::mm') == 2
    assert any('MmBackward' in place for _, place in counter.launches)
    assert not counter.syncs and not counter.constants


VALUES, MASK, INDEX = torch.arange(4.0), torch.arange(4) > 1, torch.tensor([0, 2])


def assign(index, value):
    VALUES.clone()[index] = value


@pytest.mark.parametrize(
    ('waits', 'constants', 'work'),
    [
        (1, 0, lambda: VALUES.sum().item()),
        (1, 0, lambda: bool(MASK.any())),
        (1, 0, MASK.nonzero),
        (1, 0, lambda: VALUES[MASK]),
        (1, 0, lambda: VALUES.masked_select(MASK)),
        (1, 0, lambda: assign(MASK, VALUES[2:])),
        (1, 0, lambda: VALUES.unique()),
        (1, 0, lambda: VALUES.equal(VALUES)),
        (1, 0, lambda: INDEX.repeat_interleave(INDEX)),
        (0, 0, lambda: INDEX.repeat_interleave(INDEX, output_size=2)),
        (0, 0, lambda: assign(MASK, 0)),
        (0, 0, lambda: VALUES[INDEX]),
        (0, 0, lambda: VALUES.where(MASK, 0)),
        (0, 1, lambda: VALUES[[0, 2]]),
        (0, 1, lambda: VALUES.new_tensor([1, 2])),
        (0, 1, lambda: torch.as_tensor(VALUES.numpy())),
    ],
)
def test_what_the_host_waits_for(waits, constants, work):
    with LaunchCounter() as counter:
        work()
    assert (counter.syncs.total(), counter.constants.total()) == (waits, constants)


def test_report_names_the_place():
    with LaunchCounter() as counter:
        VALUES[MASK]
    assert f'aten::index at tests/tools/{Path(__file__).name}:' in counter.report()


def test_rotated_windows_take_few_launches():
    """Between the linear layers of a block: 4 forward and 8 with the gradient were the goal."""
    module, x = RotatedWindowAttention(16, 2, 2), torch.rand(1, 15, 16, requires_grad=True)
    with opened_launches() as forward:
        out = module(x, 3, 5)
    cotangent = torch.ones_like(out)
    with opened_launches() as backward:
        out.backward(cotangent)
    forward, backward = (
        sum(n for (name, _), n in counter.launches.items() if name not in LINEAR)
        for counter in (forward, backward)
    )
    assert (forward, backward) == (2, 5)
