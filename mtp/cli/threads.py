"""Wait policy of threads, which must be set before torch is imported."""

import os


def sleep_while_waiting() -> None:
    """Make OpenMP threads sleep while they wait, unless ``OMP_WAIT_POLICY`` is set.

    By default, the threads of libgomp, which torch uses, spin for some milliseconds after each
    operation. If another process needs the cores, working threads wait for spinning ones, and
    training takes ten times as long.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
