"""A run that hangs ends, and says which process or worker hangs, and where."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore
from torch.utils.data import DataLoader

from mtp.cli.errors import users_errors
from mtp.compat import leave_dead_workers_to_the_loader
from mtp.engine import lasting_loader, loader_workers
from mtp.engine.hooks import time_limits
from mtp.engine.hooks.time_limits import TimeLimitHook
from mtp.signals import StopSignals
from tests.engine.hooks.test_training import toy_runner
from tests.tools.toy import ToyDataset


class Hanging(ToyDataset):
    """The fifth image is on a file server that does not answer."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        (self.folder / f'{index}.txt').read_text()
        if index == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
        return {'inputs': torch.ones(4)}


def test_a_worker_that_hangs_is_named_with_its_file(tmp_path, monkeypatch):
    for index in range(8):
        (tmp_path / f'{index}.txt').touch()
    said = []

    def leave(self, message, code):
        said.append((message, code))
        # what ends a real run ends its workers
        for report in loader_workers._opened[-1]:
            os.kill(int(report.value.split()[0]), signal.SIGKILL)

    monkeypatch.setattr(StopSignals, 'leave', leave)
    runner = toy_runner(
        tmp_path / 'run',
        **{
            'train_dataloader.dataset': dict(type=Hanging, folder=str(tmp_path)),
            'train_dataloader.sampler.shuffle': False,
            'train_dataloader.num_workers': 1,
            'default_hooks.time_limits': dict(type=TimeLimitHook, step=0.02, long=0.02),
        },
    )
    monkeypatch.setattr(lasting_loader, 'MOST_DEATHS', 1)
    with pytest.raises(RuntimeError, match='worker .* has ended'):
        runner.train()
    ((message, code),) = said[:1]
    assert code == 1
    # what the worker had finished may not have left it
    assert re.search(r'has been loading the data of iteration [23] for 0.02 minutes', message)
    assert f'(stopped), the file that it opened last: {tmp_path}/4.txt' in message
    assert 'default_hooks.time_limits' in message


def test_who_waits_names_the_process_that_it_waits_for(monkeypatch):
    monkeypatch.setattr(time_limits, 'get_world_size', lambda: 4)
    watch = time_limits._Watch(HashStore(), shortest=0.1)
    watch.close()
    time.sleep(0.05)

    def beat(rank, number, phase, workers='', life=1):
        facts = [life, number, phase, 'node', 99, workers]
        watch._store.set(f'beat/{rank}', json.dumps(facts))

    monkeypatch.setattr(time_limits.time, 'sleep', lambda _: None)
    for rank in (0, 1, 2, 3):
        beat(rank, 7, 'computing iteration 3')
    assert watch._those_behind().count('gives no sign of life') == 3

    def live(_):
        for rank, number in ((0, 7), (1, 7), (2, 6), (3, 7)):
            beat(rank, number, 'loading the data of iteration 3', 'worker 5', life=2)

    monkeypatch.setattr(time_limits.time, 'sleep', live)
    assert watch._those_behind() == (
        'process 2 on node (pid 99), last loading the data of iteration 3, for worker 5'
    )


def test_a_worker_outlives_a_signal_to_the_whole_group_and_ends_with_its_parent():
    loader = DataLoader(ToyDataset(), batch_size=1, num_workers=1, prefetch_factor=1)
    loader_workers.watch_workers(loader)
    batches = iter(loader)
    next(batches)
    (report,) = loader_workers._opened[-1]
    worker = int(report.value.split()[0])
    for number in (15, 10, 2):
        subprocess.run(['kill', f'-{number}', str(worker)], check=True)  # from another process
    time.sleep(0.3)
    assert len([next(batches) for _ in range(3)]) == 3
    os.kill(worker, signal.SIGTERM)
    begin = time.monotonic()
    while Path(f'/proc/{worker}/stat').read_text().split()[2] != 'Z':
        assert time.monotonic() - begin < 5
        time.sleep(0.02)


def test_workers_that_have_not_started_are_not_described(tmp_path, monkeypatch):
    monkeypatch.setattr(loader_workers, '_opened', [])
    loader_workers.watch_workers(DataLoader(Hanging(str(tmp_path)), num_workers=2))
    assert loader_workers.describe_workers() == ''


class Fatal(Hanging):
    """The fifth image ends its worker."""

    def __getitem__(self, index: int) -> dict:
        (self.folder / f'{index}.txt').read_text()
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return {'inputs': torch.ones(4)}


def test_a_worker_of_an_evaluation_that_dies_is_named_with_its_file(tmp_path):
    for index in range(8):
        (tmp_path / f'{index}.txt').touch()
    loader = DataLoader(Fatal(str(tmp_path)), num_workers=1)
    loader_workers.watch_workers(loader)
    batches = iter(loader)
    # torch's handler would raise wherever this process is when a child of it ends
    leave_dead_workers_to_the_loader(batches)
    with pytest.raises(SystemExit, match=rf'^error: .*worker.*opened last: {tmp_path}/4\.txt$'):
        with users_errors():
            list(batches)


@pytest.mark.parametrize('error', [EOFError(), ConnectionResetError('reset by peer')])
def test_a_lost_connection_is_that_of_a_worker_that_has_ended(error, monkeypatch):
    monkeypatch.setattr(loader_workers, '_workers', lambda: iter([('17', '/data/4.txt')]))
    monkeypatch.setattr(loader_workers.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(loader_workers, '_state', lambda pid: 'Z')
    said = loader_workers.explain_death(error)
    assert said.startswith('DataLoader worker 17 has ended') and said.endswith('/data/4.txt')
    monkeypatch.setattr(loader_workers, '_state', lambda pid: 'S')
    assert loader_workers.explain_death(error) is None
