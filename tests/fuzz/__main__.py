"""Run each property on many examples, in a process of its own, and print what came of it.

``python -m tests.fuzz --examples 2000``; ``--only NAME`` for one, ``--corpus`` to make the files
that the parsers' attacks begin with.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from unittest import mock

from hypothesis import HealthCheck, settings

from tests.fuzz.properties import PROPERTIES
from tests.fuzz.targets import CORPUS, TARGETS

LIMIT = 60  # seconds in which each example ends, also where others use the machine


def run(name: str, examples: int, fixed: bool = False) -> int:
    """Run a property; return the number of examples that it held for.

    Args:
        name: name of the property.
        examples: number of examples.
        fixed: whether each run has the same examples.
    """
    count = 0
    test = PROPERTIES[name]
    inner = test.hypothesis.inner_test

    def counted(*args: object, **kwargs: object) -> None:
        nonlocal count
        signal.alarm(LIMIT)
        try:
            inner(*args, **kwargs)
        finally:
            signal.alarm(0)
        count += 1

    test.hypothesis.inner_test = counted
    before = signal.signal(signal.SIGALRM, _too_long)
    chosen = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=fixed,
        suppress_health_check=list(HealthCheck),
    )
    try:
        with mock.patch('os.fsync'):  # no power is lost
            chosen(test)()
    finally:
        test.hypothesis.inner_test = inner
        signal.signal(signal.SIGALRM, before)
    return count


def _too_long(*_: object) -> None:
    # no Exception, which readers turn into an error of theirs; hypothesis takes it as a failure
    raise SystemExit(f'an example takes more than {LIMIT} s')


def make_corpus() -> None:
    """Write the files of all targets."""
    for name, target in TARGETS.items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for file, content in target.make().items():
            (CORPUS / name / file).write_bytes(content)


def _one(name: str, examples: int) -> int:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter('ignore')
    begin = time.monotonic()
    try:
        print(
            f'{name}: {run(name, examples)} examples, {time.monotonic() - begin:.0f} s', flush=True
        )
    except BaseException:  # a decoder's panic too
        print(f'{name}: FAILED\n{traceback.format_exc()}', flush=True)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.fuzz', description=__doc__)
    parser.add_argument('--examples', type=int, default=2000, help='examples of each property')
    parser.add_argument('--only', choices=sorted(PROPERTIES), help='one property alone')
    parser.add_argument('--corpus', action='store_true', help='make the corpus again')
    args = parser.parse_args()
    if args.corpus:
        make_corpus()
        return 0
    if args.only:
        return _one(args.only, args.examples)
    failed = 0
    for name in PROPERTIES:  # a segmentation fault ends one of them alone
        command = [sys.executable, '-m', 'tests.fuzz', '--only', name]
        code = subprocess.run([*command, '--examples', str(args.examples)], check=False).returncode
        if code < 0:
            print(f'{name}: FAILED, signal {-code}', flush=True)
        failed += code != 0
    print(f'{len(PROPERTIES) - failed} of {len(PROPERTIES)} properties hold')
    return int(failed > 0)


if __name__ == '__main__':
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of the libraries are of no concern
