"""One fault of the campaign: a run that it hits and that goes on, compared with one without it."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from campaign import digests, small
from campaign.injection import LEFT_OUT
from campaign.plan import DAMAGE, IMAGES, NAN, NAN_STEP, WRITING, Fault
from campaign.ranks import Launch
from mtp.engine.checkpoints import POINTER, checksum_file
from mtp.files import write_json

AUTO = ('--resume', 'auto')
# Two batches in an update of each process.
MICRO_BATCHES = {
    'pretraining': ('--images-per-gpu', '3', '--cfg-options', 'total_batch_size=12'),
    'mmpretrain': ('--images-per-gpu', '3'),
}
TRIES = 3  # for a kill that comes after the end of its run


class Campaign:
    """Runs faults.

    Args:
        out: folder of all runs.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def run(self, fault: Fault) -> dict[str, Any]:
        """Return the result of a fault; what is left of a run that did not survive stays."""
        began = time.monotonic()
        home = self.out / fault.recipe.replace(' ', '_')
        config = small.make(fault.recipe, home)
        arguments: tuple[str, ...] = ()
        bad: dict[str, Any] | None = None
        if fault.kind in NAN:
            bad = dict(NAN[fault.kind], step=NAN_STEP)
            if 'batch' in bad:
                arguments = MICRO_BATCHES.get(fault.recipe, ('--images-per-gpu', '1'))
        expected = self._undisturbed(config, home, arguments, bad is not None)
        folder = home / fault.key.replace(' ', '_').replace(',', '')
        steps = max(int(name.split()[1]) for name in expected['steps']) + 1
        hit: dict[str, Any] = {}
        for _ in range(TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            own = config
            if fault.kind == 'index damaged' or fault.kind in IMAGES:
                own = _own_data(config, folder)
            if fault.kind in IMAGES:
                expected = _with_bad_image(fault, own, folder, expected)
            with _disk(fault, folder, expected['bytes']) as disk:
                hit = _strike(fault, own, folder, steps, arguments, bad, disk)
                if not hit['missed']:
                    row = _recover(fault, own, folder, arguments, bad, disk, expected)
                    break
        else:
            row = dict(recovered=False, lost=0, differences=['the fault never came'])
        if row['recovered'] and not row['lost'] and not row['differences']:
            shutil.rmtree(folder)
        seconds = round(time.monotonic() - began, 1)
        about = dict(key=fault.key, kind=fault.kind, recipe=fault.recipe, how=fault.how)
        return {**about, **hit, **row, 'seconds': seconds}

    def _undisturbed(
        self, config: Path, home: Path, arguments: Sequence[str], left_out: bool
    ) -> dict[str, Any]:
        """Return the digests of a run without a fault, or of one that leaves an update out."""
        name = 'without_an_update' if left_out else 'undisturbed'
        folder = home / f'{name}{"_micro" if arguments else ""}'
        kept = folder.with_suffix('.json')
        if not kept.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            fault = dict(kind=LEFT_OUT, step=NAN_STEP) if left_out else None
            codes = Launch(config, folder, arguments, fault).wait()
            if any(codes):
                raise RuntimeError(f'an undisturbed run ended with {codes}: {folder}/output.txt')
            size = max(path.stat().st_size for path in (folder / 'run').glob('*.pth'))
            found = digests.read(folder)
            write_json(kept, dict(found, bytes=size))
            shutil.rmtree(folder)
        return json.loads(kept.read_text())


def _strike(
    fault: Fault,
    config: Path,
    folder: Path,
    steps: int,
    arguments: Sequence[str],
    bad: dict[str, Any] | None,
    disk: str,
) -> dict[str, Any]:
    """Start a run and let the fault happen.

    Returns:
        dict: ``missed``, whether the run came to its end before that, and what happened.
    """
    rng, told = fault.rng, {}
    inside: dict[str, Any] | None = bad
    ranks: list[int] = [0, 1]
    if fault.kind == 'kill in writing':
        inside = dict(
            kind=fault.kind,
            checkpoint=rng.randrange(steps // small.EVERY - 1),
            moment=rng.choice(WRITING),
            before=rng.random() < 0.5,
            part=rng.randrange(200),
        )
        told, ranks = inside, []
    elif fault.kind == 'disk full':
        ranks = []
        if disk == 'injected':
            inside = dict(
                kind=fault.kind, checkpoint=rng.randrange(4), moment='data', part=rng.randrange(200)
            )
        told = dict(disk=disk)
    elif fault.kind in ('kill one rank', 'rank replaced'):
        ranks = [rng.randrange(2)]
    first = () if fault.kind == 'rank replaced' else AUTO
    launch = Launch(config, folder, (*first, *arguments), inside)
    if ranks:
        step = rng.randrange(-1, steps - 1)
        pause = rng.uniform(0, small.PAUSE if step >= 0 else 3)
        _wait_for(launch, step)
        time.sleep(pause)
        launch.kill(ranks)
        told = dict(killed=ranks, step=step, pause=round(pause, 3))
    codes = launch.wait()
    return dict(missed=not any(codes), codes=codes, told=told)


def _recover(
    fault: Fault,
    config: Path,
    folder: Path,
    arguments: Sequence[str],
    bad: dict[str, Any] | None,
    disk: str,
    expected: dict[str, Any],
) -> dict[str, Any]:
    """Do what else the fault does, go on, and compare."""
    run = folder / 'run'
    if fault.kind in DAMAGE:
        _damage(fault, run if fault.kind != 'index damaged' else folder / 'data')
    if disk == 'tmpfs':
        _remount(run, 20 * expected['bytes'])
    resume, restarts = AUTO, (0, 0)
    if fault.kind == 'rank replaced':  # by a new machine, whose torchrun begins to count at 0
        resume, restarts = (), fault.rng.choice([(0, 1), (1, 0)])
    codes = Launch(config, folder, (*resume, *arguments), bad, restarts).wait()
    if any(codes):
        # where nothing undamaged is left, a run is refused instead of started anew
        right = fault.kind == 'checkpoint damaged' and _refused(folder) and _all_damaged(run)
        return dict(recovered=right, lost=0, differences=[], again=codes, refused=right)
    found = digests.read(folder)
    lost, names = digests.differences(found, expected, bad and bad['step'])
    return dict(recovered=True, lost=lost, differences=names)


def _refused(folder: Path) -> bool:
    """Return whether the last start ended with the one error that names the damage."""
    return 'is undamaged: ' in (folder / 'output.txt').read_text().strip().rpartition('\n')[2]


def _all_damaged(run: Path) -> bool:
    """Return whether the damaged checkpoint was the only one."""
    return len({path.name.partition('.pth')[0] for path in run.glob('iter_*.pth*')}) <= 1


def _wait_for(launch: Launch, step: int) -> None:
    """Wait until a process has read the batch of a step, or all have ended."""
    begun = f'[{step}, "read"'
    while step >= 0 and launch.running:
        if any(begun in path.read_text() for path in launch.folder.glob('steps.*.jsonl')):
            return
        time.sleep(0.02)


def _damage(fault: Fault, folder: Path) -> None:
    """Damage the newest checkpoint, the pointer, or the indices of labels; nothing if missing."""
    if fault.kind == 'index damaged':
        paths = [path for path in folder.rglob('.mtp_index*/*') if path.is_file()]
    else:
        paths = [folder / POINTER]
        if fault.kind == 'checkpoint damaged' and paths[0].is_file():
            newest = folder / Path(paths[0].read_text().strip()).name
            paths = [checksum_file(newest) if fault.how == 'checksum garbage' else newest]
    for path in filter(Path.is_file, paths):
        _spoil(path, fault)


def _spoil(path: Path, fault: Fault) -> None:
    content = bytearray(path.read_bytes())
    if fault.how == 'missing':
        path.unlink()
    elif fault.how == 'names a missing one':
        path.write_text(str(path.parent / 'iter_999.pth'))
    elif fault.how.endswith('garbage'):
        path.write_bytes(fault.rng.randbytes(100))
    elif fault.how == 'flipped':
        content[fault.rng.randrange(len(content))] ^= 1
        path.write_bytes(content)
    else:
        length = fault.rng.randrange(len(content)) if fault.how == 'cut' else 0
        path.write_bytes(content[:length])


def _own_data(config: Path, folder: Path) -> Path:
    """Return a config that reads a copy of the data, in ``folder``."""
    shutil.copytree(config.parent / 'data', folder / 'data')
    own = folder / config.name
    own.write_text(config.read_text().replace(f'{config.parent}/data', f'{folder}/data'))
    return own


def _with_bad_image(
    fault: Fault, config: Path, folder: Path, expected: dict[str, Any]
) -> dict[str, Any]:
    """Damage or remove an image of the first step; return what a run makes of that by itself."""
    file = Path(expected['steps']['0 0 read'][0][0][0][0])
    (path,) = (folder / 'data').rglob(str(Path(*file.parts[1:])))
    if fault.kind == 'image missing':
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    alone = folder / 'alone'
    codes = Launch(config, alone).wait()
    if any(codes):
        raise RuntimeError(f'a run with a bad image ended with {codes}: {alone}/output.txt')
    found = digests.read(alone)
    if found['steps']['0 0 read'] == expected['steps']['0 0 read']:
        raise RuntimeError(f'{path} was read though it is bad')
    return dict(found, bytes=expected['bytes'])


@contextlib.contextmanager
def _disk(fault: Fault, folder: Path, checkpoint: int) -> Iterator[str]:
    """Give the work directory a small disk where the fault fills one.

    Args:
        fault: the fault.
        folder: folder of the run.
        checkpoint: size of a checkpoint in bytes.

    Yields:
        str: ``'tmpfs'``; ``'injected'`` where mounting is not permitted; '' for other faults.
    """
    if fault.kind != 'disk full':
        yield ''
        return
    run = folder / 'run'
    run.mkdir(parents=True)
    size = int(fault.rng.uniform(0.3, 2.8) * checkpoint)
    command = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(run)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        yield 'injected'
        return
    try:
        yield 'tmpfs'
    finally:
        subprocess.run(['umount', '--lazy', str(run)], check=True)


def _remount(run: Path, size: int) -> None:
    subprocess.run(['mount', '-o', f'remount,size={size}', str(run)], check=True)
