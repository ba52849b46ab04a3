"""How threads wait for work, which is decided before torch is imported."""

import os


def sleep_while_waiting() -> None:
    """Make OpenMP's threads sleep while they wait, unless ``OMP_WAIT_POLICY`` is set.

    By default those of libgomp, which torch brings along, spin for some milliseconds after each
    operation. Where another process wants the cores, the threads that work wait for those that
    spin: training takes ten times as long.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
