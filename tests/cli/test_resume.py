"""A run whose config has been renamed since goes on where it is."""

import pytest
from mmengine.config import Config

from mtp.cli.resume import go_on_under_old_name
from tests.conftest import REPO
from tests.tools.test_train import TOY, run_tool

OLD, NEW = 'vit-tiny-rvsa_demo', 'vit_tiny_rvsa_demo'


@pytest.mark.filterwarnings('ignore:.* is called:FutureWarning')
def test_a_run_goes_on_in_the_folder_of_its_config_s_old_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(TOY)
    (tmp_path / 'configs' / 'pretrain').mkdir(parents=True)
    cfg.dump(tmp_path / 'configs' / 'pretrain' / f'{NEW}.py')
    run_tool(
        monkeypatch,
        'train',
        TOY,
        '--work-dir',
        f'work_dirs/{OLD}',
        '--cfg-options',
        'train_cfg.max_iters=3',
        'experiment_name=old_name1',
    )
    run_tool(
        monkeypatch,
        'train',
        f'configs/pretrain/{OLD}.py',
        '--resume',
        '--cfg-options',
        'train_cfg.max_iters=5',
        'experiment_name=old_name2',
    )
    assert (tmp_path / 'work_dirs' / OLD / 'iter_5.pth').is_file()
    assert not (tmp_path / 'work_dirs' / NEW).exists()
    logs = ''.join(log.read_text() for log in (tmp_path / 'work_dirs' / OLD).rglob('*.log'))
    assert f'The run goes on in work_dirs/{OLD}' in logs and 'resumed epoch: 0, iter: 3' in logs


@pytest.mark.parametrize(
    ('config', 'work_dir', 'saved'),
    [
        (f'pretrain/{NEW}.py', f'work_dirs/{NEW}', [OLD, NEW]),  # it has begun in the new folder
        (f'pretrain/{NEW}.py', f'work_dirs/{NEW}', []),
        (f'pretrain/{NEW}.py', 'elsewhere', [OLD]),
        ('finetune/tiny/aid.py', 'work_dirs/tiny/aid', [OLD]),
    ],
)
def test_no_other_folder_is_taken(config, work_dir, saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in saved:
        (tmp_path / 'work_dirs' / name).mkdir(parents=True)
        (tmp_path / 'work_dirs' / name / 'last_checkpoint').touch()
    cfg = Config(dict(work_dir=work_dir), filename=str(REPO / 'configs' / config))
    assert go_on_under_old_name(cfg) is None and cfg.work_dir == work_dir
