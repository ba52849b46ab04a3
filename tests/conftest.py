"""Fixtures shared by all tests."""
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

# Without a GPU the kernels run in Triton's interpreter, which is chosen when Triton is imported.
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'

import mtp  # noqa: E402, F401  (sets up OpenMMLab before any test imports it)

REPO = Path(__file__).resolve().parents[1]


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


@pytest.fixture(autouse=True)
def _isolate() -> None:
    """Seed each test, and forget the registry scope that a runner of another test has set."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
