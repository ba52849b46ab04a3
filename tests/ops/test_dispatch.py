"""Which form of an operator runs is chosen openly."""
import subprocess
import sys

import pytest
import torch

from mtp.ops import dispatch

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
    with pytest.raises(ValueError, match='no kernel takes torch.float64'):
        dispatch.use_triton(CPU, CPU.double())
    monkeypatch.delenv('TRITON_INTERPRET')
    with pytest.raises(ValueError, match='MTP_KERNELS=triton, but Triton has no CPU kernels'):
        dispatch.use_triton(CPU)


def test_without_triton_everything_runs_in_torch(monkeypatch):
    monkeypatch.setattr(dispatch, '_TRITON_INSTALLED', False)
    assert dispatch.report() == 'torch (Triton is not installed)'
    assert not dispatch.use_triton(CPU)


def test_another_word_is_refused():
    result = subprocess.run([sys.executable, '-c', 'import mtp.ops.dispatch'], text=True,
                            capture_output=True, check=False, env={'MTP_KERNELS': 'cuda'})
    assert "MTP_KERNELS='cuda': set it to torch or triton" in result.stderr
