"""Results of the gate so far, as lines of JSON from which a later run continues."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Store:
    """A folder with ``steps/<workload>.jsonl``, ``kernels.jsonl`` and the kernels' sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ('steps', 'sources'):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def step(self, workload: str) -> Path:
        """Return the file of a workload's rows."""
        return self.folder / 'steps' / f'{workload.replace(" ", "_")}.jsonl'

    def rows(self, workload: str) -> dict[str, list[dict]]:
        """Return a workload's rows by kind: ``graph``, ``own``, ``trace``, ``break``, ``step``."""
        found: dict[str, list[dict]] = {
            'graph': [],
            'own': [],
            'trace': [],
            'break': [],
            'step': [],
        }
        for row in _lines(self.step(workload)):
            found[row.pop('kind')].append(row)
        return found

    def graphs(self) -> dict[str, dict]:
        """Return the lowered graphs of all workloads by key."""
        return {
            row['key']: row
            for path in self.folder.glob('steps/*.jsonl')
            for row in _lines(path)
            if row['kind'] == 'graph'
        }

    def begin(self, workload: str) -> None:
        """Restart an unfinished workload: keep its lowered graphs and their launches."""
        path = self.step(workload)
        kept = [row for row in _lines(path) if row['kind'] in ('graph', 'own')]
        path.unlink(missing_ok=True)
        for row in kept:
            append(path, row)

    def add(self, workload: str, kind: str, row: dict[str, Any]) -> None:
        """Write a row of a workload."""
        append(self.step(workload), {'kind': kind, **row})

    def keep_source(self, key: str, source: str) -> None:
        """Write a kernel's source."""
        path = self.folder / 'sources' / f'{key}.py'
        if not path.exists():
            path.write_text(source)

    def source(self, key: str) -> str:
        """Return a kernel's source."""
        return (self.folder / 'sources' / f'{key}.py').read_text()

    def kernels(self) -> dict[tuple[str, int], dict]:
        """Return the result of each kernel on each device."""
        return {
            (row['key'], row['capability']): row for row in _lines(self.folder / 'kernels.jsonl')
        }

    def add_kernel(self, row: dict[str, Any]) -> None:
        """Write what was found of a kernel."""
        append(self.folder / 'kernels.jsonl', row)


def append(path: Path, row: dict[str, Any]) -> None:
    """Write a line in one call, so that no reader or other writer sees half of it."""
    with path.open('ab', buffering=0) as file:
        file.write(json.dumps(row).encode() + b'\n')
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # the run ended while the line was written
                continue
