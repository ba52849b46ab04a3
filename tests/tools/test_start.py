"""What the tools do before they import torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from mtp.cli import data, main

REPO = Path(__file__).parents[2]
TOOLS = sorted(
    str(path.relative_to(REPO))
    for path in (REPO / 'tools').rglob('*.py')
    if 'ArgumentParser(' in path.read_text() or 'import main\n' in path.read_text()
)
COMMANDS = ['', *main.COMMANDS, *(f'data {name}' for name in data.COMMANDS)]
# Run all in one process, and print what each of them was the first to import.
CODE = """
import os, runpy, sys
from mtp.cli import main
HEAVY = {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrotate', 'mmpretrain'}
for tool in sys.argv[1:]:
    before, sys.argv = set(sys.modules), [tool, '--help']
    sys.path.insert(0, os.path.dirname(tool))  # as python does
    try:
        if tool.endswith('.py'):
            runpy.run_path(tool, run_name='__main__')
        else:
            main.main([*tool.split(), '--help'])
        print(tool, 'went on', file=sys.stderr)
    except SystemExit:
        for name in sorted((set(sys.modules) - before) & HEAVY):
            print(tool, 'imports', name, file=sys.stderr)
"""


def test_help_imports_neither_torch_nor_openmmlab():
    result = subprocess.run(
        [sys.executable, '-c', CODE, *TOOLS, *COMMANDS],
        cwd=REPO,
        text=True,
        capture_output=True,
        check=True,
    )
    assert result.stderr == ''
    assert result.stdout.count('usage: ') == len(TOOLS) + len(COMMANDS)


def test_options_of_the_config_are_read_as_mmengine_reads_them():
    import argparse

    from mtp.cli.arguments import RunOptions, add_run_arguments, run_options

    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    args = parser.parse_args(
        ['c.py', '--cfg-options', 'a.b=1', 'c=[1,2]', 'd=x', '--cfg-options', 'e=None']
    )
    assert args.cfg_options == {'a.b': 1, 'c': [1, 2], 'd': 'x', 'e': None}
    assert run_options(parser.parse_args(['c.py'])) == RunOptions('c.py')
    assert run_options(parser.parse_args(['c.py', '--launcher', 'slurm'])).launcher == 'slurm'


# Run a tool up to its first import of torch, and end with the variable's value there.
UNTIL_TORCH = """
import os, runpy, sys
class Stop:
    def find_spec(name, path, target=None):
        if name == 'torch':
            raise SystemExit(os.environ['OMP_WAIT_POLICY'])
sys.argv = sys.argv[1:]
sys.meta_path.insert(0, Stop)
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.parametrize('set_by_user', ['', 'ACTIVE'])
@pytest.mark.parametrize(
    'command',
    [
        'tools/train.py c.py --cfg-options a=1',
        'tools/test.py c.py c.pth',
        'mtp/__main__.py train c.py --cfg-options a=1',
        'tools/finetune_all.py',
        'tools/reproduce.py oscd vit_b_rvsa --checkpoint c.pth --data data',
    ],
)
def test_threads_are_told_to_sleep_before_torch_is_imported(command, set_by_user, monkeypatch):
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    if set_by_user:
        monkeypatch.setenv('OMP_WAIT_POLICY', set_by_user)
    result = subprocess.run(
        [sys.executable, '-c', UNTIL_TORCH, *command.split()],
        cwd=REPO,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.stderr.strip() == (set_by_user or 'PASSIVE')
