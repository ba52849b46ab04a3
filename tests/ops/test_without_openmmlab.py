"""``mtp.ops`` where OpenMMLab is not installed, and the examples of its page."""

import re
import subprocess
import sys

from tests.conftest import REPO

REMOVED = """
import sys

class Removed:
    def find_spec(self, name, path=None, target=None):
        if re.fullmatch(r'mmengine|mm(cv|det|seg|rotate|pretrain)', name.partition('.')[0]):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

import re
sys.meta_path.insert(0, Removed())
"""
EXPECTED = """
assert kept.tolist() == [1, 2] and overlaps.shape == (3, 3)
assert upright.shape == (3, 64, 7, 7) and features.grad.abs().sum() > 0
assert pooled.shape == maps.shape and offset.grad.abs().sum() > 0
assert torch.allclose(pooled[:, 1:-1, 1:-1].mean(), maps.mean(), rtol=0.01)
assert attended.shape == (1, 14, 21, 8, 32)
assert not any(re.match('mm(engine|cv|det|seg|rotate|pretrain)', name) for name in sys.modules)
"""


def test_the_examples_of_the_page_run_without_openmmlab():
    page = (REPO / 'docs' / 'operators.md').read_text()
    examples = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert len(examples) == 3
    code = '\n'.join([REMOVED, *examples, EXPECTED])
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=REPO, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
