"""Every name that a module once had still gives the module of today, with a warning."""

import importlib
import pkgutil
import shutil
import subprocess
import sys

import pytest
from mmengine.registry import FUNCTIONS, Registry

from mtp import old_names, registry, resources
from mtp.cli.config import read_config
from mtp.engine import CheckDatasetsHook, ExportEncoderHook, SeedIterationHook
from mtp.models import PerDatasetBatchNorm
from mtp.sample_fields import pack_batch


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
    used = {
        location
        for node in vars(registry).values()
        if isinstance(node, Registry)
        for location in node._locations
    }
    assert used and not used & old_names.MODULES.keys()
    names = (
        'registry.DATASETS.get("mtp.SAMRSDataset"), registry.TRANSFORMS.get("mtp.LoadPair"), '
        'registry.DATASETS.get("mtp.MultiTaskDataset")'
    )
    code = f'from mtp import registry; assert all([{names}])'
    subprocess.run([sys.executable, '-W', 'error::FutureWarning', '-c', code], check=True)


# What a run wrote before the modules moved.
RESOLVED = """
model = dict(
    type='mtp.models.multitask.MultiTaskPretrainer',
    data_preprocessor=dict(
        type='mtp.models.data_preprocessor.MultiTaskDataPreprocessor', pad_size_divisor=64),
    backbone=dict(type='mtp.models.build_backbone', name='vit_tiny_rvsa', img_size=64),
    datasets=dict(sota=dict(num_classes=2, tasks=('semantic', ))),
    tasks=dict(semantic=dict(
        type='mtp.models.tasks.semantic.SemanticTask',
        decode_head=dict(
            type='mmseg.models.decode_heads.uper_head.UPerHead', channels=8,
            norm_cfg=dict(type='mtp.models.layers.PerDatasetBatchNorm'),
            loss_decode=dict(type='mmseg.models.losses.cross_entropy_loss.CrossEntropyLoss')))))
default_hooks = dict(
    check_datasets=dict(type='mtp.engine.check_datasets.CheckDatasetsHook'),
    export_encoder=dict(type='mtp.engine.hooks.ExportEncoderHook'),
    seed_iteration=dict(type='mtp.engine.hooks.SeedIterationHook'))
train_dataloader = dict(collate_fn=dict(type='mtp.batch.pack_batch'))
"""


@pytest.mark.filterwarnings('ignore:mtp.* is called:FutureWarning')
def test_a_resolved_config_of_before_the_move_loads_and_builds(tmp_path):
    path = tmp_path / 'resolved.py'
    path.write_text(RESOLVED)
    cfg = read_config(path)
    model = registry.MODELS.build(cfg.model)
    assert type(model).__module__ == 'mtp.models.multitask_model'
    assert any(isinstance(module, PerDatasetBatchNorm) for module in model.modules())
    hooks = [registry.HOOKS.build(hook) for hook in cfg.default_hooks.values()]
    assert list(map(type, hooks)) == [CheckDatasetsHook, ExportEncoderHook, SeedIterationHook]
    assert FUNCTIONS.get(cfg.train_dataloader.collate_fn.type) is pack_batch


def test_configs_of_old_names(tmp_path):
    configs = resources.configs()
    with pytest.warns(FutureWarning, match='is called .*vit_b_rvsa_samrs.py now'):
        new = old_names.new_config(configs / 'pretrain' / 'vit-b-rvsa_samrs.py')
    assert new == configs / 'pretrain' / 'vit_b_rvsa_samrs.py'
    assert old_names.old_config(new) == new.with_name('vit-b-rvsa_samrs.py')
    assert all(
        (configs / new).is_file() and not (configs / old).exists()
        for old, new in old_names.CONFIGS.items()
    )
    own = tmp_path / 'pretrain' / 'vit-b-rvsa_samrs.py'  # a user's file of that name
    own.parent.mkdir()
    own.touch()
    assert old_names.new_config(own) == own


def config_with_base(folder, base):
    path = folder / 'pretrain' / 'mine.py'
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'from mmengine.config import read_base\nwith read_base():\n    from .{base} import *\n'
    )
    return path


def module_of(config):
    return '.' + config.removesuffix('.py').replace('/', '.')


@pytest.fixture
def own_configs(tmp_path):
    shutil.copytree(resources.configs() / '_base_', tmp_path / '_base_')
    return tmp_path


OLD_BASES = [(old, new) for old, new in old_names.CONFIGS.items() if old.startswith('_base_')]


@pytest.mark.parametrize(('old', 'new'), OLD_BASES)
def test_a_base_of_an_old_name_is_read(old, new, own_configs):
    with pytest.warns(FutureWarning, match=f'{old} is called .*{new} now'):
        found = read_config(config_with_base(own_configs, module_of(old)))
    expected = read_config(config_with_base(own_configs, module_of(new)))
    assert found.to_dict() == expected.to_dict()


def test_a_copy_of_a_moved_base_reads_its_neighbour(own_configs):
    path = own_configs / '_base_' / 'datasets' / 'mine.py'  # where docs once had it copied to
    path.parent.mkdir()
    path.write_text((own_configs / '_base_/pretrain/datasets/nwpu.py').read_text())
    with pytest.warns(FutureWarning, match='_base_/datasets/samrs.py is called'):
        cfg = read_config(config_with_base(own_configs, '._base_.datasets.mine'))
    assert cfg.train_dataloader.dataset.datasets[0].name == 'nwpu'


def test_own_bases_of_old_names_are_read_as_they_are(own_configs):
    (own_configs / '_base_' / 'runtime.py').write_text('mine = True\n')
    assert read_config(config_with_base(own_configs, '._base_.runtime')).mine


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("_base_ = ['../_base_/runtime.py']\n", 'This base is .*_base_/pretrain/runtime.py now'),
        ("_base_ = ['../_base_/pretrain/runtime.py']\n", 'cannot be read: .*with read_base'),
        (
            'from mmengine.config import read_base\n'
            'with read_base():\n    from .._base_.schedules.mtp_40k import *\n',
            'mtp_40k.py not found!.*did you mean pretrain/schedules/mtp_80k.py',
        ),
    ],
)
def test_a_base_that_cannot_be_read_is_told_what_to_read(text, message, own_configs):
    path = config_with_base(own_configs, '')
    path.write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        read_config(path)


def test_a_base_of_an_old_name_is_told_the_new_one(tmp_path):
    path = tmp_path / 'mine' / 'run.py'
    path.parent.mkdir()
    path.write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n    from .._base_.pretrain_samrs import *\n'
    )
    with pytest.raises(
        ValueError,
        match=r'run.py cannot be read: .*_base_/pretrain_samrs.py not '
        rf'found!.*This base is {tmp_path}/_base_/pretrain/samrs_tasks.py now',
    ):
        read_config(path)
