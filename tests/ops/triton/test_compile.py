"""Every kernel, with every set of meta-parameters that its launcher can pick, compiles."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]


@pytest.mark.slow
def test_kernels_compile_without_a_gpu(capsys):
    result = subprocess.run(
        [sys.executable, '-m', 'tests.ops.triton.compile_kernels'],
        cwd=REPO,
        text=True,
        capture_output=True,
        check=False,
    )
    with capsys.disabled():
        print('\n' + result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    for capability in (80, 90):
        assert re.search(rf'^ok .* sm_{capability} .*: reg \d+', result.stdout, re.MULTILINE)
