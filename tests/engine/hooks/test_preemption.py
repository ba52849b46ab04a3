"""Processes agree on the step after which they save and stop."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from torch.distributed import HashStore

from mtp import signals
from mtp.engine import agreement
from mtp.engine.agreement import StepAgreement
from mtp.engine.checkpoints import newest
from mtp.engine.hooks.preemption import PreemptionHook
from mtp.signals import EXIT_CODE, Stopped, StopSignals
from tests.conftest import REPO
from tests.engine.hooks.test_training import toy_runner


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(agreement, 'POLL', 0.02)
    monkeypatch.setattr(agreement, 'GONE', 0.5)


class Ranks:
    """Threads in place of processes; each notes what it is told to do at the end of its steps."""

    def __init__(self, positions, interval=None):
        store = HashStore()
        self.left = []
        self.agreements = [
            StepAgreement(store, rank, len(positions), step, interval, self.left.append)
            for rank, step in enumerate(positions)
        ]
        self.told = [{} for _ in positions]

    def train(self, rank, first, last, pause=0.01):
        for step in range(first, last + 1):
            time.sleep(pause)
            kind = self.agreements[rank].pass_step(step)
            if kind:
                self.told[rank][step] = kind
            if kind == 'stop':
                return

    def run(self, *starts, last=100):
        threads = [
            threading.Thread(target=self.train, args=(rank, first, last))
            for rank, first in enumerate(starts)
        ]
        for thread in threads:
            thread.start()
        return threads


def test_all_stop_at_one_step_though_some_are_ahead():
    ranks = Ranks([0, 5, 2])
    threads = ranks.run(1, 6, 3)
    time.sleep(0.1)
    ranks.agreements[1].stop()
    for thread in threads:
        thread.join(5)
    (step,) = ranks.told[0]
    assert 6 < step < 100 and ranks.told == [{step: 'stop'}] * 3 and not ranks.left
    for each in ranks.agreements:
        each.close()


def test_the_main_process_s_clock_makes_all_save_at_one_step_again_and_again():
    ranks = Ranks([0, 3], interval=0.1)
    for thread in ranks.run(1, 4):
        thread.join(10)
    common = {step: kind for step, kind in ranks.told[0].items() if step in ranks.told[1]}
    assert len(common) > 2 and common == ranks.told[1] and set(common.values()) == {'save'}
    for each in ranks.agreements:
        each.close()


@pytest.mark.parametrize('validating', [True, False])
def test_who_validates_or_misses_another_process_leaves_at_once(validating):
    ranks = Ranks([4, 4])
    if validating:
        for each in ranks.agreements:
            each.validating(True)
    else:
        ranks.agreements[1].close()  # it is gone, and the launcher ends this one
    ranks.agreements[0].stop()
    begin = time.monotonic()
    while len(ranks.left) < 1 + validating and time.monotonic() - begin < 5:
        time.sleep(0.01)
    assert set(ranks.left) == {validating}


class Signal(Hook):
    """Sends this process a signal in the third step."""

    def __init__(self, number):
        self.number = number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            (hook,) = (hook for hook in runner.hooks if isinstance(hook, PreemptionHook))
            os.kill(os.getpid(), self.number)
            while hook._agreement._kind is None:  # the threads hear of it
                time.sleep(0.01)


@pytest.mark.parametrize('number', signals.STOPPING)
def test_a_run_that_is_asked_to_stop_loses_nothing(number, tmp_path):
    toy_runner(tmp_path / 'whole').train()
    stopped = toy_runner(tmp_path / 'stopped')
    stopped.register_hook(Signal(number))
    handler = signal.getsignal(number)
    with StopSignals(), pytest.raises(Stopped) as error:
        stopped.train()
    assert error.value.code == EXIT_CODE == 75 and signal.getsignal(number) == handler
    found = newest(tmp_path / 'stopped')[0]
    assert found.path.name == 'iter_3.pth'
    toy_runner(tmp_path / 'stopped', resume=True, load_from=str(found.path)).train()
    whole, resumed = (
        torch.load(tmp_path / run / 'iter_6.pth', weights_only=False)['state_dict']
        for run in ('whole', 'stopped')
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_before_training_and_at_a_second_ctrl_c_the_process_ends_at_once():
    script = (
        'import os, signal, time\nfrom mtp.signals import StopSignals\n'
        'with StopSignals() as s:\n'
        '    s.attach(print) if {attached} else None\n'
        '    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1)\n'
        '    os.kill(os.getpid(), signal.SIGINT); time.sleep(20)'
    )
    for attached, code in ((False, EXIT_CODE), (True, 130)):
        command = [sys.executable, '-c', script.format(attached=attached)]
        assert subprocess.run(command, timeout=20, check=False).returncode == code


@pytest.mark.parametrize(('code', 'requeued'), [(0, False), (1, False), (75, True)])
def test_the_batch_script_of_the_docs_requeues(code, requeued, tmp_path):
    text = (REPO / 'docs' / 'distributed.md').read_text()
    (script,) = re.findall(r'```bash\n(#!/bin/bash\n#SBATCH.*?)```', text, re.DOTALL)
    for name, body in {
        'srun': f'echo "$@" >>{tmp_path}/srun.log; exit {code}',
        'scontrol': f'echo "$@" >>{tmp_path}/scontrol.log',
    }.items():
        (tmp_path / name).write_text(f'#!/bin/bash\n{body}\n')
        (tmp_path / name).chmod(stat.S_IRWXU)
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '12'}
    result = subprocess.run(['bash', '-c', script], env=env, check=False)
    assert result.returncode == (0 if requeued else code)
    assert '--resume auto' in (tmp_path / 'srun.log').read_text()
    asked = tmp_path / 'scontrol.log'
    assert (asked.read_text() == 'requeue 12\n') if requeued else not asked.exists()


@pytest.mark.slow
def test_torchrun_starts_again_when_a_process_has_stopped(tmp_path):
    """The signal of one process stops all of them, with a checkpoint."""
    command = [
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'),
        *('--max-restarts=1', 'tools/train.py', 'tests/tools/stopped_config.py', '--launcher'),
        *('pytorch', '--resume', 'auto', '--work-dir', str(tmp_path), '--cfg-options'),
        *('model_wrapper_cfg.type=mtp.engine.ShardedModel', 'train_cfg.max_iters=60'),
        'default_hooks.checkpoint.interval=60',
    ]
    env = {**os.environ, 'PYTHONPATH': str(REPO), 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'}
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=env, check=False)
    text = result.stdout + result.stderr
    assert result.returncode == 0, text[-3000:]
    (step,) = {int(step) for step in re.findall(r'after (\d+) iterations, all of which', text)}
    assert f'resumed after {step} steps' in text
    assert (Path(tmp_path) / 'last_checkpoint').read_text().endswith('iter_60.pth')
    assert not (Path(tmp_path) / f'iter_{step}.pth').exists(), 'the next one has replaced it'
