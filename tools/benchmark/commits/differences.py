"""Differences between two commits: their resolved configs, and the figures of their runs."""

import json
import re
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Figures of a log that describe the machine; they differ from run to run.
SPEED = re.compile('time|memory|images_per_s|data_share|utilisation')


@dataclass(frozen=True)
class Renamed:
    """Old names of modules and configs, which are equal to the new ones.

    Attributes:
        modules: old name of a module -> its new name.
        configs: old path of a config, below the folder of all configs -> its new path.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, checkout: Path) -> 'Renamed':
        """Read the table of a checkout, ``mtp/old_names.py``."""
        table = runpy.run_path(str(checkout / 'mtp' / 'old_names.py'))
        return cls(table['MODULES'], table['CONFIGS'])

    def config(self, path: str) -> str:
        """Return today's path of a config."""
        return self.configs.get(path, path)

    def value(self, text: str) -> str:
        """Return a value of :func:`flatten` with new names in place of old ones.

        A module's name is replaced where the value is a class or function of it. A config's name,
        without suffix, is replaced where it is a whole component of a path.
        """
        if not text.startswith("'"):
            return text
        text = text[1:-1]
        for old in sorted(self.modules, key=len, reverse=True):
            if text.startswith(f'{old}.'):
                return repr(self.modules[old] + text.removeprefix(old))
        # Bases have no runs of their own.
        names = {
            Path(old).stem: Path(new).stem
            for old, new in self.configs.items()
            if not old.startswith('_base_')
        }
        return repr('/'.join(names.get(part, part) for part in text.split('/')))


def flatten(tree: Any, key: str = '') -> dict[str, str]:
    """Flatten a tree of dicts, lists and tuples: dotted key -> ``repr`` of the value.

    A list or tuple also has an entry of its own, with its type and length. The order of a dict's
    keys is ignored.
    """
    if isinstance(tree, Mapping) and tree:
        items = tree.items()
        flat = {}
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
        flat = {key: f'{type(tree).__name__} of {len(tree)}'}
    else:
        return {key: repr(tree)}
    for name, value in items:
        flat |= flatten(value, f'{key}.{name}' if key else str(name))
    return flat


def differences(
    old: Mapping[str, str], new: Mapping[str, str], renamed: Renamed | None = None
) -> list[str]:
    """Return a line for each key whose value differs or that only one side has.

    Args:
        old: result of :func:`flatten` for the old commit.
        new: result of :func:`flatten` for the new commit.
        renamed: old names that are equal to new ones; None for none.
    """
    renamed = renamed or Renamed()
    lines = []
    for key in {**old, **new}:
        if key not in new:
            lines.append(f'{key}: {old[key]} in OLD only')
        elif key not in old:
            lines.append(f'{key}: {new[key]} in NEW only')
        elif new[key] not in (old[key], renamed.value(old[key])):
            lines.append(f'{key}: {old[key]} -> {new[key]}')
    return lines


def read_figures(work_dir: Path, steps: int) -> dict[str, str]:
    """Return the logged and measured figures of a run, with keys ``step 1.loss``, ``test.mIoU``.

    Args:
        work_dir: work directory of ``tools/train.py``, with that of ``tools/test.py`` as ``test``.
        steps: number of training iterations, all of which are logged.

    Raises:
        ValueError: not every iteration has a loss.
    """
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    figures: dict[str, dict] = {}
    for record in map(json.loads, scalars.read_text().splitlines()):
        # a validation's record joins that of the step, or the epoch, before it
        figures.setdefault(f'step {record.pop("step")}', {}).update(record)
    logged = [name for name, record in figures.items() if 'loss' in record]
    if logged != [f'step {step + 1}' for step in range(steps)]:
        raise ValueError(f'{scalars} does not hold the losses of {steps} steps')
    figures['test'] = json.loads((work_dir / 'test' / 'metrics.json').read_text())
    return {key: value for key, value in flatten(figures).items() if not SPEED.search(key)}
