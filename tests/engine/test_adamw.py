"""The optimiser that counts steps at once: torch's numbers and states, in fewer launches."""

import pytest
import torch

from mtp.engine import FusedAdamW
from tools.benchmark.counting.launches import LaunchCounter

SHAPES = [(3, 4), (5,), (2, 2)]


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def groups(params):
    rates = enumerate(params, 1)
    return [dict(params=[p], lr=0.1 / i, weight_decay=0.01 * i) for i, p in rates]


def train(optimizer, params, first, last):
    """Update with gradients that follow from the step; every third update is skipped."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for param in params[: None if step % 2 else -1]:  # the last has no gradient at times
            param.grad = torch.randn(param.shape, generator=generator)
        if optimizer.defaults['fused']:  # else torch cannot skip
            optimizer.found_inf = torch.tensor(float(step % 3 == 2))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize('options', [{}, dict(amsgrad=True, maximize=True), dict(fused=False)])
def test_numbers_are_torchs_also_when_each_continues_the_other(options):
    runs = []
    for kinds in (FusedAdamW, torch.optim.AdamW), (torch.optim.AdamW, FusedAdamW):
        params = parameters()
        first, second = (kind(groups(params), **{'fused': True, **options}) for kind in kinds)
        train(first, params, 0, 5)
        second.load_state_dict(first.state_dict())
        train(second, params, 5, 9)
        runs.append((params, [*second.state.values()]))
    torch.testing.assert_close(*runs, rtol=0, atol=0)
    if options.get('fused', True):
        assert [state['step'].item() for state in runs[0][1]] == [6, 6, 3]


def test_launches_of_the_counters_do_not_grow_with_the_groups():
    params = parameters()
    optimizer = FusedAdamW(groups(params))
    train(optimizer, params, 0, 2)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.found_inf = torch.tensor(0.0)
    with LaunchCounter() as counter:
        optimizer.step()
    numbers = {name: n for (name, _), n in counter.launches.items() if name.startswith('aten')}
    assert numbers == {'aten::_foreach_add_': 1, 'aten::_fused_adamw_': 3, 'aten::_foreach_sub_': 1}


def test_the_state_of_an_optimiser_that_is_not_fused_becomes_fused():
    params = parameters()
    plain, fused = torch.optim.AdamW(groups(params)), FusedAdamW(groups(params))
    train(plain, params, 0, 3)
    fused.load_state_dict(plain.state_dict())
    assert all(group['fused'] for group in fused.param_groups)
    assert {state['step'].dtype for state in fused.state.values()} == {torch.float32}
    train(fused, params, 3, 5)


def test_gradients_are_unscaled_as_torchs_are():
    found = []
    for kind in (FusedAdamW, torch.optim.AdamW):
        (param, *_) = parameters()
        optimizer = kind(
            [param], lr=0.1, eps=1.0, **({} if kind is FusedAdamW else {'fused': True})
        )
        param.grad = torch.full_like(param, 8.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
        optimizer.step()
        found.append(param.detach())
    assert torch.equal(*found)


def test_without_gradients_nothing_happens():
    FusedAdamW(parameters()).step()


def test_a_closure_runs_with_gradients():
    (param, *_) = parameters()
    optimizer = FusedAdamW([param])

    def closure():
        loss = param.square().sum()
        loss.backward()
        return loss

    before = param.detach().clone()
    assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
    assert not torch.equal(param, before)
