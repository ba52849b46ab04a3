"""Which form of an operator runs is chosen openly."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from mtp import fallback
from mtp.ops import dispatch, sigmoid_focal_loss
from mtp.ops.focal_loss import sigmoid_focal_loss_torch

CPU = torch.zeros(1)


def test_unset_takes_torch_on_the_cpu():
    assert not dispatch.use_triton(CPU)


def test_torch_never_takes_a_kernel(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'torch')
    assert not dispatch.use_triton(CPU)
    assert dispatch.report() == 'torch (MTP_KERNELS=torch)'


def test_triton_takes_a_kernel_or_says_why_not(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    assert dispatch.use_triton(CPU, CPU.long())
    for strict in ('', '1'):
        monkeypatch.setenv('MTP_STRICT', strict)
        monkeypatch.setattr(fallback, '_fallen', {})
        with pytest.raises(fallback.FallbackError) if strict else nullcontext():
            assert not dispatch.use_triton(CPU, CPU.double())
            assert fallback.fallen() == {'MTP_KERNELS=triton': 'no kernel takes torch.float64'}


def test_triton_without_a_device_for_it_warns(monkeypatch, caplog):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')
    monkeypatch.setattr(fallback, '_fallen', {})
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.delenv('MTP_STRICT', raising=False)
    logits = torch.randn(3, 2, requires_grad=True)
    compiled = torch.compile(sigmoid_focal_loss, backend='aot_eager', fullgraph=True)
    for function in (sigmoid_focal_loss, compiled):
        loss = function(logits, torch.arange(3))
        assert torch.equal(loss, sigmoid_focal_loss_torch(logits, torch.arange(3), 2.0, 0.25, None))
    assert caplog.text.count('MTP_KERNELS=triton failed') == 1
    assert 'Triton has no CPU kernels' in caplog.text


def test_without_triton_everything_runs_in_torch(monkeypatch):
    monkeypatch.setattr(dispatch, '_TRITON_INSTALLED', False)
    assert dispatch.report() == 'torch (Triton is not installed)'
    assert not dispatch.use_triton(CPU)


def test_another_word_is_refused():
    result = subprocess.run(
        [sys.executable, '-c', 'import mtp.ops.dispatch'],
        text=True,
        capture_output=True,
        check=False,
        env={'MTP_KERNELS': 'cuda'},
    )
    assert "MTP_KERNELS='cuda': set it to torch or triton" in result.stderr
