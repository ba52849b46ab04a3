"""What a run has done, in digests: its last checkpoint and each of its steps."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commits.differences import SPEED
from torch import Tensor

from mtp.cli.resume import last_checkpoint
from mtp.engine.hooks.bad_updates import COUNT
from mtp.models.weights.safe_loading import load_safely


def read(folder: Path) -> dict[str, Any]:
    """Return the digests of a finished run.

    Args:
        folder: folder of a :class:`campaign.ranks.Launch`.

    Returns:
        dict: ``end``: name of each entry of the last checkpoint -> its digest; ``steps``: rank,
        step and ``read`` or ``logged`` -> all that was recorded of it, which is one value if a step
        that was repeated is the same; ``bad_updates``: their count in the log.
    """
    checkpoint = load_safely(last_checkpoint(folder / 'run'))
    hub = checkpoint.pop('message_hub')
    meta = checkpoint.pop('meta')
    scalars = {
        name: [part.tolist() for part in buffer.data]
        for name, buffer in hub['log_scalars'].items()
        if not SPEED.search(name)
    }
    kept = dict(
        checkpoint,
        log={name: values for name, values in scalars.items() if name != COUNT},
        place=[meta['epoch'], meta['iter']],
    )
    count = hub['log_scalars'].get(COUNT)
    return dict(
        end=dict(_entries(kept, '')),
        steps=_steps(folder),
        bad_updates=int(count.current()) if count else 0,
    )


def differences(
    found: dict[str, Any], expected: dict[str, Any], left_out: int | None = None
) -> tuple[int, list[str]]:
    """Return how many samples were lost, and the names of what differs.

    Args:
        found: digests of a run that a fault has hit.
        expected: those of a run that it has not.
        left_out: step that is left out in ``expected``, and that goes wrong in ``found``; None if
            there is none.
    """
    lost, names = 0, []
    for name, values in expected['steps'].items():
        again = found['steps'].get(name)
        _, step, what = name.split()
        if again is None and what == 'read':
            lost += sum(len(batch[2]) for batch in values[0])
        if again != values and not (what == 'logged' and int(step) == left_out):
            names.append(f'step {name}')
    names += [f'step {name}' for name in found['steps'] if name not in expected['steps']]
    ends = [
        {key: value for key, value in run['end'].items() if _counts(key, left_out)}
        for run in (found, expected)
    ]
    names += sorted(
        key for key in ends[0].keys() | ends[1].keys() if ends[0].get(key) != ends[1].get(key)
    )
    if found['bad_updates'] != (left_out is not None):
        names.append(f'{found["bad_updates"]} bad updates in the log')
    return lost, names


def _counts(key: str, left_out: int | None) -> bool:
    # The log of an update that was left out has no losses; the records of the other steps tell.
    return left_out is None or not key.startswith('log.')


def _entries(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _entries(entry, f'{name}.{key}' if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(x, dict | Tensor) for x in value):
        for number, entry in enumerate(value):
            yield from _entries(entry, f'{name}.{number}')
    elif isinstance(value, Tensor):
        content = value.contiguous().view(-1).numpy().tobytes()
        yield name, hashlib.sha256(content).hexdigest()[:16]
    else:
        yield name, repr(value)


def _steps(folder: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for path in sorted(folder.glob('steps.*.jsonl')):
        rank = path.name.split('.')[1]
        for line in path.read_text().splitlines():
            try:
                step, what, value = json.loads(line)
            except ValueError:  # empty, or cut by a kill
                continue
            values = found.setdefault(f'{rank} {step} {what}', [])
            if value not in values:
                values.append(value)
    return found
