"""Each property on a few examples, the same in each run; ``python -m tests.fuzz`` takes many."""

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.properties import PROPERTIES


@pytest.mark.parametrize('name', PROPERTIES)
def test_property_holds(name):
    assert run(name, 15, fixed=True) >= 5
