"""The device of a run is told in a line; a GPU that torch cannot use is an error."""

from types import SimpleNamespace

import pytest
import torch

from mtp import machine
from mtp.engine import devices


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


def test_a_gpu_that_torch_cannot_use_is_an_error_unless_it_is_hidden(monkeypatch, no_cuda):
    monkeypatch.setattr(devices, 'visible_nvidia_gpus', lambda: ['/dev/nvidia0'])

    def too_old():
        raise RuntimeError('The NVIDIA driver on your system is too old (found version 11040).\nX')

    monkeypatch.setattr(torch.cuda, 'init', too_old)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    with pytest.raises(ValueError) as error:
        devices.require_usable_gpu()
    text = str(error.value)
    assert '/dev/nvidia0' in text and 'too old (found version 11040). ' in text
    assert '--device cpu' in text and '\n' not in text
    for value in ('', '-1'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
        devices.require_usable_gpu()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    monkeypatch.setattr(devices, 'visible_nvidia_gpus', lambda: [])
    devices.require_usable_gpu()


def test_only_devices_that_open_are_visible(monkeypatch, tmp_path):
    for name in ('nvidiactl', 'nvidia-uvm', 'nvidia1'):
        (tmp_path / name).touch()
    (tmp_path / 'nvidia0').mkdir()  # does not open, as that of another job
    monkeypatch.setattr(machine, 'DEVICES', tmp_path)
    assert devices.visible_nvidia_gpus() == [str(tmp_path / 'nvidia1')]


def test_the_drivers_list_where_there_are_no_device_files(monkeypatch, tmp_path):
    tool = tmp_path / 'nvidia-smi'
    tool.write_text('#!/bin/sh\necho "GPU 0: NVIDIA T4 (UUID: GPU-1)"\n')
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin:/usr/bin')
    assert devices._listed_by_driver() == ['GPU 0: NVIDIA T4 (UUID: GPU-1)']
    tool.write_text('#!/bin/sh\necho "NVIDIA-SMI has failed"\nexit 9\n')
    assert devices._listed_by_driver() == []


def test_the_cpu_is_told_with_the_reason(monkeypatch, no_cuda):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert 'every GPU is hidden' in next(devices.describe_device())
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    assert 'no GPU was found' in next(devices.describe_device())


@pytest.mark.parametrize(('capability', 'lines'), [((7, 5), 2), ((8, 0), 1)])
def test_a_gpu_without_bfloat16_runs_in_float32_and_says_so(monkeypatch, capability, lines):
    for name, value in dict(
        is_available=True,
        get_device_capability=capability,
        get_device_name='T4',
        get_device_properties=SimpleNamespace(total_memory=16 * 2**30),
    ).items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = list(devices.describe_device())
    assert len(found) == lines and 'T4, 16 GiB' in found[0]
    assert lines == 1 or 'capability 7.5' in found[1] and 'float32' in found[1]
