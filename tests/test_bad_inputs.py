"""Each bad input gets one error that names its file, and the docs list it as it is."""

import pytest

from tests.bad_inputs import GROUPS, PAGE, message

CASES = {
    f'{group}: {name}': (name, provoke)
    for group, cases in GROUPS.items()
    for name, provoke in cases.items()
}


def in_docs(name: str, text: str) -> str:
    """Return the line of the docs for a message."""
    text = text.replace('|', '\\|').replace('`', '').replace('\n', ' ')
    return f'| {name} | `{text}` |'


@pytest.mark.parametrize('case', CASES)
def test_message(case, tmp_path):
    name, provoke = CASES[case]
    text = message(provoke, tmp_path)
    assert not (tmp_path / 'ran').exists(), 'the code in it was run'
    assert '\n' not in text and len(text) < 500
    assert in_docs(name, text) in PAGE.read_text().splitlines(), 'run python -m tests.bad_inputs'
