"""The tools' ``--help``."""
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
TOOLS = sorted(str(path.relative_to(REPO)) for path in (REPO / 'tools').rglob('*.py')
               if path.parent.name != 'benchmark')
# Run all in one process, and print what each of them was the first to import.
CODE = '''
import runpy, sys
HEAVY = {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrotate', 'mmpretrain'}
for tool in sys.argv[1:]:
    before, sys.argv = set(sys.modules), [tool, '--help']
    try:
        runpy.run_path(tool, run_name='__main__')
        print(tool, 'went on', file=sys.stderr)
    except SystemExit:
        for name in sorted((set(sys.modules) - before) & HEAVY):
            print(tool, 'imports', name, file=sys.stderr)
'''


def test_help_imports_neither_torch_nor_openmmlab():
    result = subprocess.run([sys.executable, '-c', CODE, *TOOLS], cwd=REPO, text=True,
                            capture_output=True, check=True)
    assert result.stderr == ''
    assert result.stdout.count('usage: ') == len(TOOLS)


def test_options_of_the_config_are_read_as_mmengine_reads_them():
    import argparse

    from mtp.cli.arguments import add_run_arguments
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    args = parser.parse_args(['c.py', '--cfg-options', 'a.b=1', 'c=[1,2]', 'd=x', '--cfg-options',
                              'e=None'])
    assert args.cfg_options == {'a.b': 1, 'c': [1, 2], 'd': 'x', 'e': None}
    assert parser.parse_args(['c.py']).cfg_options == {}
