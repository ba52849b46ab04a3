"""Processes of a run of the campaign, which are started by forking and may be killed."""

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from campaign import injection
from mtp.cli.finetuning import FORK

LIMIT = 180  # seconds after which a run counts as hung


class Launch:
    """Two processes of a run that train together.

    Args:
        config: config of the run.
        folder: folder of the output and the records; the work directory is ``run`` in it.
        arguments: further arguments of ``tools/train.py``.
        fault: what goes wrong in them; see :mod:`campaign.injection`.
        restarts: what each takes for the number of its restarts, by rank.
    """

    def __init__(
        self,
        config: Path,
        folder: Path,
        arguments: Sequence[str] = (),
        fault: dict[str, Any] | None = None,
        restarts: tuple[int, int] = (0, 0),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        run = str(folder / 'run')
        command = [str(config), '--work-dir', run, '--launcher', 'pytorch', *arguments]
        port = _free_port()
        self.processes = []
        for rank, count in enumerate(restarts):
            variables = {injection.RECORDS: str(folder)}
            variables |= dict(
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(len(restarts)),
                TORCHELASTIC_RESTART_COUNT=str(count),
            )
            if fault is not None:
                variables[injection.FAULT] = json.dumps(fault)
            process = FORK.Process(target=_rank, args=(folder / 'output.txt', variables, command))
            process.start()
            self.processes.append(process)
        self._end = time.monotonic() + LIMIT

    @property
    def running(self) -> bool:
        """Whether any process runs."""
        return any(process.is_alive() for process in self.processes)

    def kill(self, ranks: Sequence[int]) -> None:
        """Kill some processes."""
        for rank in ranks:
            if self.processes[rank].is_alive():
                os.kill(self.processes[rank].pid or 0, signal.SIGKILL)

    def wait(self) -> list[int | None]:
        """Return the exit codes once all have ended.

        When one has failed the others are asked to end, as torchrun does, and then made to.
        """
        failed_at = None
        while self.running:
            codes = [process.exitcode for process in self.processes]
            if failed_at is None and any(code not in (None, 0) for code in codes):
                failed_at = time.monotonic()
            waited = time.monotonic() - failed_at if failed_at else 0
            if waited > 5 or time.monotonic() > self._end:
                self.kill(range(len(self.processes)))
            elif waited > 1:
                for process in self.processes:
                    process.terminate()
            time.sleep(0.05)
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(('127.0.0.1', 0))
        return made.getsockname()[1]


def _rank(log: Path, variables: dict[str, str], command: list[str]) -> None:
    with log.open('a') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.pop(injection.FAULT, None)
    os.environ.update(variables)
    injection.train(command)
