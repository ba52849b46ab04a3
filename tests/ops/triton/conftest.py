"""Kernels run on memory that holds anything."""
import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Fill what ``torch.empty`` gives with NaN, or the largest integer: nobody may read it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
