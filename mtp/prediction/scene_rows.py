"""Finished rows of a scene's tiles on disk, from which an interrupted prediction goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtp.files import UnusableFileError, whole, write_json

STATE = 'state.json'


class SceneRows:
    """Folder of finished rows.

    Args:
        folder: the folder, made where it is missing.
        state: what an interrupted prediction must have in common with one that goes on.

    Raises:
        UnusableFileError: the folder holds the rows of another prediction.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any]) -> None:
        self.folder = folder
        path = folder / STATE
        if not path.is_file() or not self.number():  # without a row, it is anybody's
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(state))
            return
        before = json.loads(path.read_text())
        differing = [key for key in state if before.get(key) != state[key]]
        if differing:
            raise UnusableFileError(
                f'{folder} holds an unfinished prediction of another '
                f'{" and ".join(differing)}: go on with the same, or remove the folder'
            )

    def number(self) -> int:
        """Return the number of rows that are finished, from the first on."""
        row = 0
        while self._path(row).is_file():
            row += 1
        return row

    def write(self, row: int, content: Mapping[str, np.ndarray]) -> None:
        """Write what is found in a row: name -> array."""
        with whole(self._path(row)) as unfinished, open(unfinished, 'wb') as file:
            arrays: Any = {key.replace('/', '|'): value for key, value in content.items()}
            np.savez(file, **arrays)

    def read(self, row: int) -> dict[str, np.ndarray]:
        """Return what is found in a row."""
        with np.load(self._path(row)) as content:
            return {key.replace('|', '/'): content[key] for key in content.files}

    def _path(self, row: int) -> Path:
        return self.folder / f'{row:05d}.npz'
