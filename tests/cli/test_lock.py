"""One training at a time in a work directory."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from mtp.cli import lock
from mtp.cli.lock import Lock, LockedError


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    for name, seconds in dict(BEAT=0.1, SILENCE=0.5, PATIENCE=1.0, _SETTLE=0.05).items():
        monkeypatch.setattr(lock, name, seconds)


def elsewhere(folder):
    """Make the lock one of another machine, whose processes cannot be seen from here."""
    path = folder / lock.NAME
    path.write_text(json.dumps(dict(json.loads(path.read_text()), machine='other', host='node7')))


def test_a_second_training_is_refused_in_a_line_and_may_start_when_the_first_has_ended(tmp_path):
    first = Lock(tmp_path, 'a', patient=False)
    for patient in (False, True):
        begin = time.monotonic()
        with pytest.raises(LockedError, match=f'process {os.getpid()} on .* --work-dir') as error:
            Lock(tmp_path, 'b', patient)
        assert '\n' not in str(error.value)
        assert (time.monotonic() - begin >= lock.PATIENCE) == patient
    first.release()
    Lock(tmp_path, 'b', patient=False).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('patient', [False, True])
def test_a_process_that_was_killed_blocks_nobody(tmp_path, patient):
    script = (
        'import os, sys; from pathlib import Path; from mtp.cli.lock import Lock\n'
        'Lock(Path(sys.argv[1]), "a", False); os.kill(os.getpid(), 9)'
    )
    subprocess.run([sys.executable, '-c', script, tmp_path], check=False)
    assert (tmp_path / lock.NAME).is_file()
    begin = time.monotonic()
    Lock(tmp_path, 'b', patient).release()
    assert time.monotonic() - begin < 0.4


def test_the_heir_of_a_machine_that_is_gone_waits_until_the_owner_is_silent(tmp_path):
    Lock(tmp_path, 'a', patient=False)._released.set()  # its thread ends, its file stays
    elsewhere(tmp_path)
    with pytest.raises(LockedError, match='on node7'):
        Lock(tmp_path, 'b', patient=False)
    begin = time.monotonic()
    Lock(tmp_path, 'b', patient=True).release()
    assert lock.SILENCE <= time.monotonic() - begin < lock.PATIENCE
    # Who does not wait takes over after a minute's silence.
    Lock(tmp_path, 'a', patient=False)._released.set()
    elsewhere(tmp_path)
    os.utime(tmp_path / lock.NAME, (0, 0))
    Lock(tmp_path, 'b', patient=False).release()


def test_a_damaged_lock_ends_in_a_line_or_is_taken_over(tmp_path):
    (tmp_path / lock.NAME).write_bytes(b'')
    with pytest.raises(LockedError):
        Lock(tmp_path, 'b', patient=False)
    Lock(tmp_path, 'b', patient=True).release()


def test_an_owner_that_was_silent_ends_when_another_has_taken_over(tmp_path):
    script = (
        'import sys, time; from pathlib import Path; from mtp.cli import lock\n'
        'lock.BEAT = 0.1; lock.Lock(Path(sys.argv[1]), "a", False); print(flush=True)\n'
        'time.sleep(20)'
    )
    owner = subprocess.Popen(
        [sys.executable, '-c', script, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    owner.stdout.readline()
    elsewhere(tmp_path)
    assert b'another training has taken over' in owner.communicate(timeout=10)[1]
    assert owner.returncode == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(os, 'link', refuse)
    with pytest.raises(ValueError, match=f'nothing can be written in {tmp_path}: Permission'):
        Lock(tmp_path, 'a', patient=False)


def test_a_file_system_without_links_has_locks_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', refuse)
    first = Lock(tmp_path, 'a', patient=False)
    with pytest.raises(LockedError):
        Lock(tmp_path, 'b', patient=False)
    first.release()
    Lock(tmp_path, 'b', patient=False).release()
