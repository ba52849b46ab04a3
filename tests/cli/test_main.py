"""The command ``mtp``: in a checkout, and installed from a wheel."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mtp import resources
from mtp.cli import main
from mtp.cli.config import default_work_dir, read_config
from mtp.cli.data import COMMANDS
from tests.conftest import REPO

WRITTEN = """
from mmengine.config import read_base

with read_base():
    from mtp.configs._base_.pretrain.samrs_tasks import *
"""
PACKAGED = 'pretrain/vit_b_rvsa_samrs'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with a config that was written for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.py').write_text(WRITTEN)
    return tmp_path


def test_written_configs_and_names_are_found_from_any_folder(folder):
    expected = read_config(REPO / 'configs' / f'{PACKAGED}.py')
    written = Config.fromfile('mine.py')
    assert written.model.tasks == expected.model.tasks
    for name in (PACKAGED, f'{PACKAGED}.py', f'configs/{PACKAGED}.py'):
        found = read_config(name)
        assert found.to_dict() == expected.to_dict() and found.filename == expected.filename
    with pytest.warns(FutureWarning, match='is called .*vit_b_rvsa_samrs.py now'):
        assert read_config('pretrain/vit-b-rvsa_samrs').filename == expected.filename
    with pytest.raises(FileNotFoundError, match=f'did you mean {PACKAGED}'):
        read_config(PACKAGED[:-1])


def test_a_file_wins_over_a_packaged_name(folder):
    own = folder / f'{PACKAGED}.py'
    own.parent.mkdir()
    own.write_text('own = True\n')
    assert read_config(PACKAGED).own and read_config(f'{PACKAGED}.py').own


def test_work_dir_is_named_after_the_last_folder_of_configs():
    for folder in ('/home/configs/mtp', '/venv/mtp'):
        config = f'{folder}/configs/finetune/classification/eurosat/vit_b_rvsa.py'
        assert default_work_dir(config) == Path('work_dirs/classification/eurosat/vit_b_rvsa')
    assert default_work_dir('mine.py') == Path('work_dirs/mine')


@pytest.mark.parametrize('arguments', [[], ['trian'], ['data', 'chek'], ['train']])
def test_wrong_commands_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    assert stop.value.code == 2


def test_a_subcommand_is_the_tool_by_another_name(folder, capsys):
    main.main(['data', 'make-synthetic', 'out', '--num-train', '1', '--num-valid', '1'])
    assert 'out: 1 + 1 images of each of SOTA' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main(['data', 'pack', '--help'])
    assert capsys.readouterr().out.startswith('usage: mtp data pack ')
    tools = (path.stem for path in (REPO / 'tools' / 'data').glob('*.py'))
    names = {name.replace('_', '-').removesuffix('-dataset') for name in tools}
    assert names - set(COMMANDS) == {'real-samples'}


# What the command reads when it runs from a wheel.
READ = """
import json, sys
from mtp.cli import config, main
read, config.read_config = config.read_config, lambda path: done.append(read(path)) or done[-1]
from mtp.cli import launch
launch.read_config, done, ends = config.read_config, [], []
for arguments in (['train', '--help'], ['test', 'pretrain/vit_b_rvsa_samrs', 'missing.pth'],
                  ['test', 'mine.py', 'missing.pth']):
    try:
        main.main(arguments)
    except SystemExit as stop:
        ends.append(stop.code)
files = [module.__file__ for name, module in sys.modules.items()
         if name.partition('.')[0] == 'mtp' and getattr(module, '__file__', None)]
print(json.dumps([ends, files, [cfg.filename for cfg in done], len(done[1].model.tasks)]))
"""


def test_a_wheel_runs_from_another_folder(folder, tmp_path_factory):
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('target')
    for name in ('mtp', 'configs', 'pyproject.toml', 'README.md', 'LICENSE'):
        path = REPO / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(path, source)
    build = int(importlib.metadata.version('setuptools').partition('.')[0]) >= 77
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-compile', '--quiet']
    installed = subprocess.run(
        [*pip, *['--no-build-isolation'] * build, '--target', target, source],
        capture_output=True,
        text=True,
        check=False,
    )
    if 'No matching distribution found for setuptools' in installed.stderr:
        pytest.skip('this environment has no setuptools of 77 or newer, and pip reaches no index')
    assert installed.returncode == 0, installed.stderr
    command = (target / 'bin' / 'mtp').read_text()
    assert 'from mtp.cli.main import main' in command

    run = subprocess.run(
        [sys.executable, '-c', READ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(target)},
    )
    assert run.returncode == 0, run.stderr
    ends, files, configs, tasks = json.loads(run.stdout.splitlines()[-1])
    assert ends[0] == 0 and all('missing.pth' in end for end in ends[1:])
    assert len(files) > 50 and all(Path(file).is_relative_to(target) for file in files)
    assert configs == [str(target / 'mtp' / 'configs' / f'{PACKAGED}.py'), 'mine.py'] and tasks == 3
    shipped = (target / 'mtp' / 'configs').rglob('*.py')
    assert len(list(shipped)) == len(list(resources.configs().rglob('*.py')))
