"""What is declared is what is used, exact versions exist for all of it, and the layers hold."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import grimp
import importlinter.cli
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]
LOCK = REPO / 'tools' / 'requirements' / 'lock.txt'
DECLARED = list(map(Requirement, importlib.metadata.requires('mtp')))


def test_imports_follow_the_layers(monkeypatch):
    monkeypatch.chdir(REPO)
    # it would silence all loggers that other tests look at
    monkeypatch.setattr(importlinter.cli.logging_config, 'dictConfig', lambda config: None)
    assert lint_imports(config_filename='pyproject.toml') == EXIT_STATUS_SUCCESS


def test_no_imports_run_in_a_circle():
    """Inside functions too; the contract on siblings overlooks a package beside its own modules."""
    graph = grimp.build_graph('mtp', cache_dir=None)
    assert not [
        f'{module} -> {imported} -> ... -> {module}'
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if graph.chain_exists(importer=imported, imported=module)
    ]


def test_no_two_files_share_a_name():
    """But ``__init__``, ``base``, and a kernel beside its twin."""
    ops, paths = REPO / 'mtp' / 'ops', defaultdict(list)
    for path in sorted((REPO / 'mtp').rglob('*.py')):
        kernel = path.parent == ops / 'triton' and (ops / path.name).is_file()
        if path.stem not in ('__init__', 'base') and not kernel:
            paths[path.name].append(path.relative_to(REPO).as_posix())
    assert not [files for files in paths.values() if len(files) > 1]


def test_ignored_type_errors_have_a_code_and_a_reason():
    ignored = re.compile(r'# type: ignore')
    complete = re.compile(r'# type: ignore\[[a-z-]+(, [a-z-]+)*\]  # .{5,}')
    for path in sorted((REPO / 'mtp').rglob('*.py')):
        for line in path.read_text().splitlines():
            assert not ignored.search(line) or complete.search(line), f'{path}: {line}'


def test_every_import_is_declared():
    provided = {
        file.parts[0].removesuffix('.py')
        for requirement in DECLARED
        for file in importlib.metadata.files(requirement.name)
    }
    imported = set()
    sources = [*(REPO / 'mtp').rglob('*.py'), *(REPO / 'tools').rglob('*.py')]
    # modules beside a tool, and the packages there
    beside = {path.stem for path in (REPO / 'tools').rglob('*.py')}
    beside |= {path.parent.name for path in (REPO / 'tools').rglob('__init__.py')}
    # what tools/benchmark/ops.py times where it is installed
    optional = {'DCNv3', 'DCNv4'}
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split('.')[0])
    undeclared = sorted(
        imported - sys.stdlib_module_names - provided - beside - optional - {'mtp', 'tools'}
    )
    assert not undeclared, f'imported, but not in the dependencies of pyproject.toml: {undeclared}'


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_lock_has_one_version_within_range_for_each_dependency(python):
    lines = LOCK.read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith('#')]
    environment = {**default_environment(), 'python_version': python}
    locked: dict[str, list[str]] = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(environment):
            (version,) = (specifier.version for specifier in pin.specifier)
            locked.setdefault(canonicalize_name(pin.name), []).append(version)
    assert all(len(versions) == 1 for versions in locked.values())
    for requirement in DECLARED:
        (version,) = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f'{requirement} excludes {version}'


def test_lock_names_no_place_to_download_from():
    assert not re.search(r'://|@|--|/', LOCK.read_text().split('\n', maxsplit=1)[1])


PYTEST = '-m pytest --numprocesses auto --maxprocesses 8'


class Shell:
    """A copy of the scripts, and a PATH with nothing but a few utilities and a false python."""

    def __init__(self, folder: Path, version: tuple[int, int], cv2_works: bool = True) -> None:
        self.root, self.bin = folder / 'repo', folder / 'bin'
        shutil.copytree(REPO / 'tools', self.root / 'tools')
        shutil.copy(REPO / 'pyproject.toml', self.root)
        self.bin.mkdir()
        for tool in ('bash', 'cat', 'cksum', 'dirname', 'grep'):
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name in ('python', 'python3'):
            (self.bin / name).write_text(
                PYTHON.format(
                    version=f'{version[0]}.{version[1]}',
                    prefix=folder,
                    cv2=int(not cv2_works),
                    supported=int(not (3, 10) <= version <= (3, 13)),
                )
            )
            (self.bin / name).chmod(0o755)
        self.log = folder / 'log'

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.bin / 'bash', self.root / 'tools' / 'run_tests.sh', *args],
            text=True,
            capture_output=True,
            env={'PATH': str(self.bin), **env},
            check=False,
        )


PYTHON = """#!/usr/bin/env -S bash
case "$*" in
    *version_info*) exit {supported} ;;
    *find_spec*) exit 0 ;;
    *cv2*) exit {cv2} ;;
    *sys.prefix*) echo {prefix} ;;
    --version) echo Python {version} ;;
    *) echo "$@" >>{prefix}/log; echo "$OMP_WAIT_POLICY" >{prefix}/policy
       [[ $* != *pip* ]] || cat "$5" >>{prefix}/constraints ;;
esac
"""
PYTHON = PYTHON.replace('/usr/bin/env -S bash', shutil.which('bash'))


def test_scripts_install_once_into_the_active_environment(tmp_path):
    shell = Shell(tmp_path, (3, 12))
    for _ in range(2):
        result = shell.run('-k', 'hooks')
        assert result.returncode == 0, result.stderr
    pip, *tests = shell.log.read_text().splitlines()
    assert re.fullmatch(
        r'-m pip install --constraint \S+ --editable \.\[test,geo,sam,export\]', pip
    )
    assert tests == [f'{PYTEST} -k hooks'] * 2
    assert (tmp_path / 'policy').read_text().strip() == 'PASSIVE'
    constraints = (tmp_path / 'constraints').read_text()
    assert 'onedl-mmcv==' in constraints
    assert 'torch==' not in constraints  # the environment's own stays

    lock = shell.root / 'tools' / 'requirements' / 'lock.txt'
    lock.write_text(lock.read_text() + 'other==1\n')
    shell.run()
    assert shell.log.read_text().count('pip install') == 2


def test_scripts_tell_which_python_is_needed(tmp_path):
    shell = Shell(tmp_path, (3, 9))
    result = shell.run()
    assert result.returncode != 0
    assert 'mtp needs Python 3.10 to 3.13' in result.stderr
    assert 'python3 is Python 3.9' in result.stderr
    # The one asked for is not replaced by another.
    (shell.bin / 'mine').symlink_to('python')
    assert 'found none among: mine (mine is Python 3.9)' in shell.run(PYTHON='mine').stderr


def test_scripts_put_headless_opencv_on_top_where_the_other_cannot_load(tmp_path):
    shell = Shell(tmp_path, (3, 12), cv2_works=False)
    result = shell.run()
    assert result.returncode == 0, result.stderr
    _, headless, tests = shell.log.read_text().splitlines()
    assert headless.endswith('--force-reinstall --no-deps opencv-python-headless')
    assert tests == PYTEST
