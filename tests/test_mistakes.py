"""Each mistake gets its answer in three lines, and the docs list it."""

import pytest
from mmengine.config import Config
from torch.distributed import TCPStore

from mtp import resources
from mtp.cli import main
from mtp.cli.config import override
from mtp.cli.config_check import check_config
from mtp.cli.errors import users_errors
from mtp.cli.schedule import follow_length
from mtp.files import UnusableFileError
from tests.conftest import REPO
from tests.mistakes import MISTAKES, OWN, PAGE, TOY, answer, make, row


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake(name, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    mistake = MISTAKES[name]
    code, text = make(mistake, tmp_path)
    said = answer(text)
    assert code == mistake.code
    assert said.startswith('error: ') and len(said.splitlines()) <= 3
    if code == 1:  # other releases of Python word argparse's messages differently
        assert row(name, code, text) in PAGE.read_text(), 'run python -m tests.mistakes'


def test_debug_shows_the_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    with pytest.raises(SystemExit, match='^error: no checkpoint at'):
        main.main(['test', TOY, 'no.pth', '--debug', '--work-dir', str(tmp_path)])
    assert 'in read_state_dict' in capsys.readouterr().err


def test_of_the_processes_of_torchrun_the_first_one_tells(monkeypatch):
    store = TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv('TORCHELASTIC_USE_AGENT_STORE', 'True')
    monkeypatch.setenv('MASTER_ADDR', 'localhost')
    monkeypatch.setenv('MASTER_PORT', str(store.port))
    told = []
    for restart in '001':
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', restart)
        with pytest.raises(SystemExit) as stop, users_errors():
            raise UnusableFileError('broken')
        told.append(stop.value.code)
    assert told == ['error: broken', 1, 'error: broken']


def test_a_fault_of_mtp_keeps_its_traceback():
    with pytest.raises(ValueError, match='not enough values'), users_errors():
        _, _ = [1]


@pytest.mark.parametrize('name', ['aid', 'oscd', 'ucas_aod_rotated'])
def test_tiny_configs_pass(name):
    check_config(Config.fromfile(resources.configs() / 'finetune' / 'tiny' / f'{name}.py'))


def test_names_that_something_reads_and_keys_of_open_classes_pass(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(
        f'{OWN}from mtp.models import build_backbone\n'
        'train_dataloaders = train_dataloader\n'
        'test_dataloader = train_dataloaders\n'
        'encoder = dict(type=build_backbone, name="vit_b", with_cp=True)\n'
        'my_classes = 3\n'
    )
    check_config(Config.fromfile(path))


# config -> options, last scheduler
LENGTHS = {
    'pretrain/vit_b_rvsa_samrs': ('max_iters', 800, dict(T_max=800)),
    'finetune/segmentation/loveda/vit_b_rvsa': ('max_iters', 8000, dict(begin=150, T_max=7850)),
    'finetune/classification/eurosat/vit_b_rvsa': ('max_epochs', 40, dict(begin=2, T_max=38)),
    'finetune/horizontal_detection/dior/vit_b_rvsa': ('max_epochs', 36, dict(milestones=[24, 33])),
}


@pytest.mark.parametrize('name', LENGTHS)
def test_the_schedule_follows_the_length(name):
    key, length, expected = LENGTHS[name]
    options = {f'train_cfg.{key}': length}
    cfg = Config.fromfile(resources.configs() / f'{name}.py')
    assert follow_length(cfg, ()) is None
    written = [dict(scheduler) for scheduler in cfg.param_scheduler]
    override(cfg, options)
    assert follow_length(cfg, [*options, 'param_scheduler.0.eta_min']) is None
    assert cfg.param_scheduler == written
    assert 'is scaled from' in follow_length(cfg, options)
    assert {key: cfg.param_scheduler[-1][key] for key in expected} == expected


def test_the_schedule_follows_a_shorter_config_that_does_not_mention_it(tmp_path):
    path = tmp_path / 'own.py'
    for more, expected in (('', 3), ('param_scheduler[0].eta_min = 0.1\n', 6)):
        path.write_text(f'{OWN}train_cfg.max_iters = 3\n{more}')
        cfg = Config.fromfile(path)
        follow_length(cfg, ())
        assert cfg.param_scheduler[0].T_max == expected
