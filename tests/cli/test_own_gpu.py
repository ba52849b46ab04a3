"""Which GPU a process sees."""

import os
import subprocess
import sys

import pytest

from mtp import machine
from mtp.cli.own_gpu import choose_device, show_own_gpu
from tests.conftest import REPO

# Lower a function for this process's GPU, as if there were two, and print what the cache counted.
LOWER = """
import os
from mtp.cli.own_gpu import show_own_gpu
show_own_gpu('pytorch')
import torch
from torch._dynamo.utils import counters
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._subclasses.fake_tensor import FakeTensorMode
from tools.gate.devices import DEVICES
from tools.gate.lower import kernels_written
from tools.gate.presence import present

def backend(graph, inputs):
    compile_fx(graph, inputs, inner_compile=lower)
    print({key: n for key, n in counters['inductor'].items() if key.startswith('fxgraph')})
    raise SystemExit

def lower(*args, **settings):
    with present(DEVICES[90]), kernels_written():
        return compile_fx_inner(*args, **settings)

with FakeTensorMode():
    x = torch.empty(64, 64, device=f'cuda:{os.environ["LOCAL_RANK"]}')
    torch.compile(lambda x: x.softmax(1) + 1, backend=backend)(x)
"""


@pytest.mark.parametrize(
    ('launcher', 'variable'), [('pytorch', 'LOCAL_RANK'), ('slurm', 'SLURM_LOCALID')]
)
@pytest.mark.parametrize(
    ('visible', 'number', 'expected'),
    [
        ('4,5', 1, '5'),
        ('GPU-a,MIG-b', 0, 'GPU-a'),
        (None, 2, '2'),
        ('4,5', 2, None),
        ('', 0, None),
        (None, 3, None),
    ],
)
def test_a_process_sees_its_own_gpu(
    launcher, variable, visible, number, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, 'DEVICES', tmp_path)
    for name in ('nvidia0', 'nvidia1', 'nvidia2', 'nvidiactl', 'nvidia-uvm', 'nvme0'):
        (tmp_path / name).touch()
    environment = {variable: str(number), 'OTHER': '7'}
    if visible is not None:
        environment['CUDA_VISIBLE_DEVICES'] = visible
    before = dict(environment)
    show_own_gpu(launcher, environment)
    if expected is None:  # it has none: for others to tell
        assert environment == before
    else:
        assert environment == before | {'CUDA_VISIBLE_DEVICES': expected, variable: '0'}


def test_a_single_process_sees_all():
    environment = {'LOCAL_RANK': '1', 'CUDA_VISIBLE_DEVICES': '0,1'}
    show_own_gpu('none', environment)
    assert environment == {'LOCAL_RANK': '1', 'CUDA_VISIBLE_DEVICES': '0,1'}


@pytest.mark.parametrize(
    ('device', 'visible', 'expected'),
    [
        ('auto', '4,5', '4,5'),
        ('cuda', '4,5', '4,5'),
        ('cpu', '4,5', ''),
        ('cuda:1', '4,5', '5'),
        ('cuda:1', None, '1'),
    ],
)
def test_the_device_that_was_asked_for_is_the_only_one(
    device, visible, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, 'DEVICES', tmp_path)
    for name in ('nvidia0', 'nvidia1'):
        (tmp_path / name).touch()
    environment = {} if visible is None else {'CUDA_VISIBLE_DEVICES': visible}
    choose_device(device, 'none', environment)
    assert environment == {'CUDA_VISIBLE_DEVICES': expected}
    with pytest.raises(ValueError, match='--device cuda:7: of GPUs there are cuda:0'):
        choose_device('cuda:7', 'none', {'CUDA_VISIBLE_DEVICES': '4'})


@pytest.mark.slow
def test_processes_of_a_machine_share_the_compile_cache(tmp_path):
    pytest.importorskip('triton')
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    environment |= {'CUDA_VISIBLE_DEVICES': '0,1', 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path)}
    counted = [
        subprocess.run(
            [sys.executable, '-c', LOWER],
            cwd=REPO,
            text=True,
            check=True,
            stdout=subprocess.PIPE,
            env=environment | {'LOCAL_RANK': rank},
        ).stdout
        for rank in '01'
    ]
    assert counted == ["{'fxgraph_cache_miss': 1}\n", "{'fxgraph_cache_hit': 1}\n"]
