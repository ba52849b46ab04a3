"""The configs, where mtp is a checkout and where it is installed."""
import runpy
import sys
from types import SimpleNamespace

from mtp import resources
from tests.conftest import REPO


def test_configs_are_those_of_the_checkout_or_of_the_installed_package(monkeypatch, tmp_path):
    assert resources.configs() == REPO / 'configs'
    monkeypatch.setattr(resources, 'files', lambda package: tmp_path / package)
    (tmp_path / 'configs').mkdir()  # another package's, perhaps
    (tmp_path / 'mtp' / 'configs').mkdir(parents=True)
    assert resources.configs() == tmp_path / 'mtp' / 'configs'


def test_a_wheel_holds_every_config(monkeypatch):
    said = {}
    monkeypatch.setitem(sys.modules, 'setuptools', SimpleNamespace(
        find_packages=lambda include: ['mtp'], setup=said.update))
    runpy.run_path(str(REPO / 'setup.py'))
    assert said['packages'] == ['mtp', 'mtp.configs']
    folder = REPO / said['package_dir']['mtp.configs']
    packed = {path for pattern in said['package_data']['mtp.configs']
              for path in folder.glob(pattern)}
    assert packed == {path for path in folder.rglob('*')
                      if path.is_file() and path.suffix != '.pyc'}
