"""Packages whose names are imported when they are asked for."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import mtp.data
from mtp import registry


@pytest.mark.parametrize(
    ('module', 'libraries'),
    [
        ('mtp.data.samrs.subsets', ('torch', 'mm', 'numpy')),
        ('mtp.data.datasets', ('torch', 'mm')),
        ('mtp.data.facts', ('torch', 'mm')),
    ],
)
def test_facts_need_no_library(module, libraries):
    code = (
        f'import sys, {module}\n'
        f'print([name for name in sys.modules if name.startswith({libraries})'
        ' and name != "mmap"])'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == '[]'


def test_names_of_data_are_there():
    for name in mtp.data.__all__:
        assert getattr(mtp.data, name)
    with pytest.raises(AttributeError, match="'mtp.data' has no attribute 'no_such_name'"):
        mtp.data.no_such_name  # noqa: B018


def test_registries_find_all_of_data_by_name():
    for module in pkgutil.iter_modules(mtp.data.__path__, 'mtp.data.'):
        importlib.import_module(module.name)
    for of_data in (registry.DATASETS, registry.TRANSFORMS, registry.DATA_SAMPLERS):
        modules = {
            class_.__module__
            for class_ in of_data.module_dict.values()
            if class_.__module__.startswith('mtp.')
        }
        assert modules == set(of_data._locations)
