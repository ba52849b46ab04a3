"""The configs, where mtp is a checkout and where it is installed."""

import pytest

from mtp import resources
from tests.conftest import REPO


def test_configs_are_those_of_the_checkout_or_of_the_installed_package(monkeypatch, tmp_path):
    assert resources.configs() == REPO / 'configs'
    monkeypatch.setattr(resources, 'files', lambda package: tmp_path / package)
    (tmp_path / 'configs').mkdir()  # another package's, perhaps
    (tmp_path / 'mtp' / 'configs').mkdir(parents=True)
    assert resources.configs() == tmp_path / 'mtp' / 'configs'


def test_a_wheel_holds_every_package_and_config():
    tomllib = pytest.importorskip('tomllib')  # of Python 3.11
    said = tomllib.loads((REPO / 'pyproject.toml').read_text())['tool']['setuptools']
    packages = {
        '.'.join(path.parent.relative_to(REPO).parts) for path in (REPO / 'mtp').rglob('*.py')
    }
    assert sorted(said['packages']) == sorted({*packages, 'mtp.configs'})
    others = {path for path in (REPO / 'mtp').rglob('*.*') if path.suffix not in ('.py', '.pyc')}
    assert others == {
        path
        for package in packages
        for pattern in said['package-data'].get(package, ())
        for path in REPO.joinpath(*package.split('.')).glob(pattern)
    }
    folder = REPO / said['package-dir']['mtp.configs']
    packed = {
        path for pattern in said['package-data']['mtp.configs'] for path in folder.glob(pattern)
    }
    assert packed == {
        path for path in folder.rglob('*') if path.is_file() and path.suffix != '.pyc'
    }
