"""What training goes on from: one process decides for all."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtp.cli import resume
from mtp.cli.resume import RECORD, last_checkpoint, start
from mtp.engine.checkpoint_writer import write_file
from mtp.engine.checkpoints import checksum_file, write_pointer
from mtp.engine.store import connect
from tests.distributed import run_processes


def save(folder: Path, iteration: int, name: str = '', time: str = '20260101_000000') -> Path:
    path = folder / (name or f'iter_{iteration}.pth')
    meta = dict(iter=iteration, epoch=0, time=time)
    write_file({'meta': meta, 'state_dict': {'a': torch.zeros(99)}}, path)
    write_pointer(folder, f'/elsewhere/{path.name}')
    return path


def begun(folder: Path, asked: str | None, launcher: str = 'none') -> tuple[str | None, str]:
    """Name of the checkpoint that training goes on from, and what the log tells."""
    with start(Config(dict(work_dir=str(folder), launcher=launcher)), asked) as decided:
        return decided.checkpoint and Path(decided.checkpoint).name, ' '.join(decided.lines)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path, 2)
    save(tmp_path, 4)
    return tmp_path


@pytest.mark.parametrize(
    ('variable', 'restarts', 'asked', 'found'),
    [
        ('TORCHELASTIC_RESTART_COUNT', 1, None, 'iter_4.pth'),
        ('SLURM_RESTART_COUNT', 2, 'other.pth', 'iter_4.pth'),
        ('SLURM_RESTART_COUNT', 0, 'other.pth', 'other.pth'),
        ('SLURM_RESTART_COUNT', 0, 'last', 'iter_4.pth'),
        ('SLURM_RESTART_COUNT', 0, 'auto', 'iter_4.pth'),
    ],
)
def test_only_processes_started_again_resume_by_themselves(
    folder, monkeypatch, variable, restarts, asked, found
):
    monkeypatch.setenv(variable, str(restarts))
    assert begun(folder, asked)[0] == found
    assert (folder / 'last_checkpoint').read_text() == '/elsewhere/iter_4.pth', 'left as it was'


def test_without_a_checkpoint_auto_and_restarts_start_and_last_is_refused(tmp_path, monkeypatch):
    assert begun(tmp_path, 'auto')[0] is None
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')  # killed before it had saved anything
    assert begun(tmp_path, None)[0] is None
    assert begun(tmp_path, 'other.pth')[0] == 'other.pth'
    with pytest.raises(FileNotFoundError, match='nothing to resume in'):
        begun(tmp_path, 'last')


def test_a_start_in_a_folder_with_checkpoints_is_refused_in_a_line(folder):
    with pytest.raises(ValueError, match=r'add --resume to go on .* another --work-dir') as error:
        begun(folder, None)
    assert '\n' not in str(error.value)


DAMAGES = {
    'cut': lambda f: os.truncate(f / 'iter_4.pth', 500),
    'empty': lambda f: os.truncate(f / 'iter_4.pth', 0),
    'missing': lambda f: (f / 'iter_4.pth').unlink(),
    'a flipped bit': lambda f: flip(f / 'iter_4.pth'),
    'checksum empty': lambda f: os.truncate(f / 'iter_4.pth.sha256', 0),
    'checksum of another': lambda f: os.replace(f / 'iter_2.pth.sha256', f / 'iter_4.pth.sha256'),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('asked', ['last', 'auto', None])
def test_a_damaged_checkpoint_is_passed_over(folder, damage, asked, monkeypatch):
    if asked is None:
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    DAMAGES[damage](folder)
    found, told = begun(folder, asked)
    assert found == 'iter_2.pth' and 'Passed over: ' in told and 'iter_4.pth' in told


@pytest.mark.parametrize('content', [b'', b'\xb9\x00\xff', b'.', b'..', b'../other/best.pth', b'/'])
def test_a_damaged_pointer_is_passed_over(folder, content):
    (folder / 'last_checkpoint').write_bytes(content)
    found, told = begun(folder, 'last')
    assert found == 'iter_4.pth' and 'last_checkpoint' in told


def test_all_damaged_is_an_error_for_auto_and_restarts_too(folder, monkeypatch):
    for path in folder.glob('*.pth'):
        flip(path)
    for asked, restarts in (('last', 0), ('auto', 0), (None, 1)):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(restarts))
        with pytest.raises(ValueError, match='no checkpoint in .* is undamaged: .*iter_2'):
            begun(folder, asked)


def test_the_newest_is_the_one_that_was_saved_last(tmp_path):
    save(tmp_path, 6, time='20260101_000000')  # of a run that went on from an earlier one
    save(tmp_path, 5, time='20260102_000000')
    save(tmp_path, 3, 'epoch_3.pth', time='20260101_120000')
    (tmp_path / 'best_acc_epoch_9.pth').touch()
    (tmp_path / 'last_checkpoint').unlink()
    assert last_checkpoint(tmp_path).name == 'iter_5.pth'


def test_a_checkpoint_without_a_checksum_loads_and_that_is_said(folder):
    checksum_file(folder / 'iter_4.pth').unlink()
    found, told = begun(folder, 'last')
    assert found == 'iter_4.pth' and 'has no checksum' in told
    os.truncate(folder / 'iter_4.pth', 500)
    assert begun(folder, 'last')[0] == 'iter_2.pth'


def test_the_same_torchrun_goes_on_from_what_it_has_saved(tmp_path, monkeypatch):
    """A change of membership restarts all processes, and raises no count."""
    agents = iter(['torchrun 1', 'torchrun 1', 'torchrun 2'])
    monkeypatch.setattr(resume, '_agent', lambda: next(agents))
    assert begun(tmp_path, None, 'pytorch')[0] is None
    save(tmp_path, 2)
    assert begun(tmp_path, None, 'pytorch')[0] == 'iter_2.pth'
    with pytest.raises(ValueError, match='holds checkpoints of an earlier run'):
        begun(tmp_path, None, 'pytorch')


def test_a_restart_takes_an_earlier_run_s_checkpoint_for_its_own_only_if_it_has_saved(
    folder, monkeypatch
):
    other = save(folder / 'other', 1)
    monkeypatch.setattr(resume, '_agent', lambda: 'torchrun 1')
    for restarts, saves, found in ((0, False, 'iter_1.pth'), (1, True, 'iter_1.pth'), (2, 0, 'i')):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(restarts))
        if saves:
            assert begun(folder, str(other))[0] == found
            save(folder, 3)
        elif restarts:
            assert begun(folder, str(other))[0] == 'iter_3.pth'
        else:
            assert begun(folder, str(other))[0] == found


def _decide(rank: int, starts: list[tuple[list[Path], list[int]]]) -> list[str | None]:
    """What this process goes on from in each of several starts."""
    found = []
    for number, (folders, counts) in enumerate(starts):
        os.environ['TORCHELASTIC_RESTART_COUNT'] = str(counts[rank])
        # A process group starts once.
        resume.connect = lambda prefix, number=number: connect(f'{prefix}/{number}')
        os.chdir(folders[rank])
        try:
            found.append(begun(Path(), None)[0])
        except (ValueError, SystemExit) as error:
            found.append(str(error))
    return found


@pytest.mark.slow
def test_a_replaced_node_starts_as_the_others(folder, tmp_path_factory):
    empty, other = tmp_path_factory.mktemp('empty'), tmp_path_factory.mktemp('other')
    save(other, 4, time='20270101_000000')
    survivors, replaced = run_processes(
        _decide,
        2,
        [
            ([folder, folder], [1, 0]),  # another node was replaced
            ([folder, folder], [0, 1]),  # the first one was
            ([empty, empty], [0, 0]),
            ([folder, folder], [0, 0]),  # it is no restart
            ([folder, other], [1, 1]),  # no file system that both share
        ],
    )
    assert survivors[:3] == replaced[:3] == ['iter_4.pth', 'iter_4.pth', None]
    assert 'holds checkpoints of an earlier run' in survivors[3] and replaced[3] == '1'
    assert 'process 1 on' in survivors[4] and 'sees another' in survivors[4], 'before any step'
    assert (folder / 'last_checkpoint').read_text() == '/elsewhere/iter_4.pth'
    assert set(json.loads((folder / RECORD).read_text())) == {'id', 'launches', 'found'}
