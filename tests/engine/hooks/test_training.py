"""Hooks of a run, through mmengine's own runner on a toy model."""

import gzip
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mtp.cli import launch
from mtp.engine import MixedPrecisionOptimWrapper, ThroughputHook

TOY = Path(__file__).parents[2] / 'tools' / 'toy_config.py'
_names = itertools.count()


def toy_runner(work_dir: Path, **changes) -> Runner:
    cfg = Config.fromfile(TOY)
    cfg.merge_from_dict(changes)
    cfg.work_dir = str(work_dir)
    # mmengine shares what it logs between runners of one name in one process.
    cfg.experiment_name = f'toy{next(_names)}'
    return launch.build_runner(cfg)


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> Runner:
    runner = toy_runner(tmp_path_factory.mktemp('toy'))
    runner.train()
    return runner


def test_resumed_run_equals_uninterrupted_one(finished, tmp_path):
    resumed = toy_runner(tmp_path, resume=True, load_from=f'{finished.work_dir}/iter_3.pth')
    torch.manual_seed(99)  # the state that a fresh process happens to be in
    resumed.train()
    assert resumed.iter == finished.iter == 6
    for name, value in finished.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_seed_changes_the_random_draws(finished, tmp_path):
    path = f'{finished.work_dir}/iter_3.pth'
    other = toy_runner(tmp_path, load_from=path, train_cfg=dict(max_iters=3))
    other.train()  # the same weights, but from iteration 0: other draws, other data order
    assert not torch.equal(other.model.head.weight, finished.model.head.weight)


def test_encoder_is_exported_whole_and_reads_safely(finished):
    path = Path(finished.work_dir) / 'encoder.pth'
    content = torch.load(path, weights_only=True)
    expected = finished.model.backbone.state_dict()
    assert content['state_dict'].keys() == expected.keys()
    assert all(torch.equal(content['state_dict'][name], expected[name]) for name in expected)
    assert content['meta']['iteration'] == 6
    assert Config.fromstring(content['meta']['backbone'], '.py').backbone == {'dropout': 0.5}
    assert not list(path.parent.glob('.*.partial.*'))


def test_console_shows_one_loss_per_task_and_the_files_every_term(finished):
    log_dir = Path(finished.log_dir)
    (line,) = [
        line
        for line in (log_dir / f'{finished.timestamp}.log').read_text().splitlines()
        if 'Iter(train) [4/6]' in line
    ]
    shown = dict(part.split(': ') for part in line.split('  ')[1:])
    assert set(shown) == {
        'lr',
        'eta',
        'time',
        'data_time',
        'images_per_s',
        'data_share',
        'loss',
        'semantic',
        'instance',
    }

    rows = [
        json.loads(row) for row in (log_dir / 'vis_data' / 'scalars.json').read_text().splitlines()
    ]
    (row,) = [row for row in rows if row['step'] == 4]
    assert float(shown['semantic']) == pytest.approx(row['sota.semantic.loss_ce'], abs=1e-4)
    assert float(shown['instance']) == pytest.approx(
        row['sota.instance.loss_bbox'] + row['sota.instance.loss_cls'], abs=1e-4
    )
    assert 'sota.instance.acc' in row
    assert list((log_dir / 'vis_data').glob('events.out.tfevents.*'))


def test_mixed_precision_runs_the_forward_pass_in_bfloat16():
    linear = torch.nn.Linear(2, 2)
    wrapper = MixedPrecisionOptimWrapper(torch.optim.SGD(linear.parameters(), lr=0.1), amp='on')
    with wrapper.optim_context(linear):
        output = linear(torch.ones(1, 2))
    assert output.dtype == torch.bfloat16
    before = linear.weight.clone()
    wrapper.update_params(output.float().sum())
    assert linear.weight.dtype == torch.float32
    assert not torch.equal(linear.weight, before)


def test_no_iteration_waits_for_the_metric_of_a_validation():
    hook, logged = ThroughputHook(), {}
    hook.t = 0.0  # the last image of the validation was long ago
    runner = SimpleNamespace(iter=1, message_hub=SimpleNamespace(update_scalar=logged.__setitem__))
    hook.after_val(runner)
    hook.before_train_iter(runner, 0)
    assert logged['train/data_time'] < 60


def test_log_lines_tell_throughput_and_a_trace_is_written(tmp_path):
    runner = toy_runner(tmp_path, custom_hooks=[dict(type='mtp.engine.TraceHook', start=2, stop=4)])
    runner.train()
    speed, count = runner.message_hub.get_scalar('train/images_per_s').data
    assert len(speed) == 3 and all(0 < value < 1e6 for value in speed)  # of six iterations
    shares = runner.message_hub.get_scalar('train/data_share').data[0]
    assert all(0 <= share < 1 for share in shares)
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert log.count('images_per_s: ') == 3
    with gzip.open(tmp_path / 'trace_0.json.gz', 'rt') as file:
        names = [event.get('name', '') for event in json.load(file)['traceEvents']]
    assert sum(name.startswith('Optimizer.step') for name in names) == 2
