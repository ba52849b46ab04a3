"""Operations of a training step, counted without running it."""

from types import SimpleNamespace

import pytest
import torch

from mtp.engine import flops
from mtp.engine.hooks.compilation import compile_parts
from mtp.sample_fields import pack_batch
from tests.models.small import TINY_RVSA, build_model, make_sample


def test_a_step_is_counted_without_running_it():
    backbone = dict(TINY_RVSA, with_cp=True)
    model = build_model(dict(a=dict(num_classes=2)), ('semantic',), backbone).train()
    samples = [make_sample('a', ('semantic',), seed=i) for i in range(2)]
    batch = pack_batch([dict(inputs=image, data_samples=sample) for image, sample in samples])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compile_parts(model, 'eager')

    state = torch.get_rng_state()
    found = flops.count_training_step(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all('gt_sem_seg' not in sample for sample in batch['data_samples'])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())

    model.backbone.with_cp = False  # recomputation is not counted
    data = model.data_preprocessor(batch, True)
    expected = flops.count(lambda: model.parse_losses(model(**data, mode='loss'))[0].backward())
    assert found == pytest.approx(expected) and found > 1e8


def test_the_rate_is_measured_without_a_draw_from_training(monkeypatch):
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None, elapsed_time=lambda _: 1)
    monkeypatch.setattr(torch.cuda, 'Event', lambda enable_timing: event)
    state = torch.get_rng_state()
    assert flops.matrix_rate(torch.device('cpu'), 8) == 10 * 2 * 8**3 / 1e-3
    assert torch.equal(torch.get_rng_state(), state)
