"""Fixtures shared by all tests, in an environment that is the same on every machine."""

import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# Variables that choose an operator's form, or tell a process its place among others.
MISLEADING = re.compile(
    r'MTP_(KERNELS|OPS)|TRITON_INTERPRET|RANK|LOCAL_RANK|GROUP_RANK|ROLE_RANK|'
    r'(LOCAL_|ROLE_)?WORLD_SIZE|MASTER_(ADDR|PORT)|(SLURM|TORCHELASTIC)_\w+'
)


def _only_operators() -> bool:
    """Whether pytest was asked for tests of the operators and for no others."""
    paths = [Path(argument.partition('::')[0]).resolve() for argument in sys.argv[1:]]
    paths = [path for path in paths if path.is_relative_to(REPO / 'tests')]
    return bool(paths) and all(path.is_relative_to(REPO / 'tests' / 'ops') for path in paths)


# Before torch and mtp are imported, which read them.
for _name in filter(MISLEADING.fullmatch, list(os.environ)):
    del os.environ[_name]
os.environ['MTP_STRICT'] = '1'  # a fall-back is an error, where a test does not ask for one
# A GPU is for the tests of the operators: the others compare runs, on a CPU. A worker of
# pytest-xdist has the environment of the process that started it.
if 'PYTEST_XDIST_WORKER' not in os.environ and not _only_operators():
    os.environ['CUDA_VISIBLE_DEVICES'] = ''

import torch  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

# Without a GPU the kernels run in Triton's interpreter, which is chosen when Triton is imported.
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'

import mtp  # noqa: E402, F401  (sets up OpenMMLab before any test imports it)


@pytest.fixture(scope='session')
def shared() -> Path:
    """Folder of reference tensors and real data; tests that need it skip where it is absent."""
    path = Path(os.environ.get('MTP_SHARED', REPO.parent / 'shared')).resolve()
    if not path.is_dir():
        pytest.skip(f'reference data not found at {path}: set MTP_SHARED to run this test')
    return path


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Switch torch's deterministic algorithms on."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope='module')
def few_objects() -> Iterator[None]:
    """Keep what exists out of the collection of garbage that each data set begins with."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _isolate() -> None:
    """Seed each test, and forget the registry scope that a runner of another test has set."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
