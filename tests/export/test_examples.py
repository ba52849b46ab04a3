"""The examples of docs/export.md."""

import re

from tests.conftest import REPO


def test_the_examples_run_one_after_the_other():
    page = (REPO / 'docs' / 'export.md').read_text()
    examples = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert len(examples) == 2
    names = {}
    for example in examples:
        exec(example, names)
    assert names['loss'] > 0 and names['model'].encoder.pos_embed.grad.abs().sum() > 0
