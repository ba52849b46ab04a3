"""Every name that a module once had still gives the module of today, with a warning."""
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import Registry

from mtp import old_names, registry

PRETRAIN = Path(__file__).parents[1] / 'configs' / 'pretrain'


@pytest.mark.parametrize(('old', 'new'), old_names.MODULES.items())
def test_modules_of_old_names(old, new, monkeypatch):
    module = importlib.import_module(new)
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f'^{old} is called {new} now'):
        assert importlib.import_module(old) is module
    assert module.__spec__.name == new


@pytest.mark.parametrize('old', old_names.DIVIDED)
def test_what_modules_held_that_were_divided(old):
    module = importlib.import_module(old)
    for name, new in old_names.DIVIDED[old].items():
        with pytest.warns(FutureWarning, match=f'^{old}.{name} is called {new} now'):
            assert getattr(module, name) is pkgutil.resolve_name(new)
    with pytest.raises(AttributeError, match=f"module '{old}' has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018


def test_classes_of_packages_that_were_modules():
    from mtp.data.samrs import SAMRSDataset, read_rotated
    from mtp.engine.hooks import ExportEncoderHook
    from mtp.models.weights import RELEASED
    assert SAMRSDataset and read_rotated and ExportEncoderHook and RELEASED


def test_registries_look_in_the_modules_of_today():
    used = {location for node in vars(registry).values() if isinstance(node, Registry)
            for location in node._locations}
    assert used and not used & old_names.MODULES.keys()
    names = ('registry.DATASETS.get("mtp.SAMRSDataset"), registry.TRANSFORMS.get("mtp.LoadPair"), '
             'registry.DATASETS.get("mtp.MultiTaskDataset")')
    code = f'from mtp import registry; assert all([{names}])'
    subprocess.run([sys.executable, '-W', 'error::FutureWarning', '-c', code], check=True)


def test_configs_of_old_names(tmp_path):
    with pytest.warns(FutureWarning, match='is called .*vit_b_rvsa_samrs.py now'):
        assert old_names.new_config(PRETRAIN / 'vit-b-rvsa_samrs.py').is_file()
    assert all((PRETRAIN / new).is_file() for new in old_names.CONFIGS.values())
    own = tmp_path / 'vit-b-rvsa_samrs.py'  # a user's file of that name
    own.touch()
    assert old_names.new_config(own) == own
