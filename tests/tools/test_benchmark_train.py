"""The benchmark of the training step, with a tiny model on a CPU."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mtp.data.synthetic import make_samrs
from mtp.engine import MixedPrecisionOptimWrapper
from mtp.sample_fields import pack_batch
from tests.engine.test_captured_steps import Repeat
from tests.models.small import build_model
from tests.tools.test_train import run_tool

TOOLS = Path(__file__).parents[2] / 'tools' / 'benchmark'
sys.path.append(str(TOOLS))  # as the command has it
from training import measure  # noqa: E402
from training.batches import make_samples  # noqa: E402

PHASES = ('data', 'forward', 'backward', 'optimizer')


@pytest.fixture
def run(monkeypatch):
    options = ['--model', 'vit_tiny_rvsa', '--device', 'cpu']
    return partial(run_tool, monkeypatch, 'benchmark/train', *options)


@pytest.mark.slow
def test_figures_are_there_and_fit_together(run, tmp_path, capsys):
    data = make_samrs(tmp_path / 'data', num_train=4, num_valid=0, image_size=64)
    files = ('--json', tmp_path / 'report.json', '--profile', tmp_path / 'trace.json')
    run(*'--size 64 --objects 4 --repeats 1 --loader'.split(), data, *files)
    report = json.loads((tmp_path / 'report.json').read_text())
    jobs = report['jobs']
    assert list(jobs) == ['ours', 'A', 'C']
    for job in jobs.values():
        assert sum(job[phase] for phase in PHASES) == pytest.approx(job['step'])
        assert job['images_s'] == pytest.approx(6000 / job['step'])
        assert 0 < job['backbone_gflop_per_image'] < job['gflop_per_image']
        assert job['saved_mb_per_image'] > 0 and job['utilisation'] > 0
    # one job, done in two ways: equal work, equal losses
    assert jobs['ours']['backbone_gflop'] == pytest.approx(jobs['A']['backbone_gflop'], rel=0.1)
    assert report['losses']['worst_difference'] < 1e-4
    # A works image by image, ours does not
    paper, own = (jobs[name]['launches'] for name in ('A', 'ours'))
    assert paper['twice_images']['launches'] > 1.2 * paper['as_asked']['launches']
    assert own['twice_objects']['launches'] < 1.1 * own['as_asked']['launches']
    assert jobs['ours']['times_as_fast_as']['A'] == pytest.approx(
        jobs['A']['step'] / jobs['ours']['step']
    )
    assert set(report['loader']) == {'ours', 'A'} and min(report['loader'].values()) > 0
    assert set(report['profile']['parts']) >= {
        'data',
        'backbone',
        'semantic',
        'instance',
        'rotated',
        'optimizer',
    }
    assert (tmp_path / 'trace.json').stat().st_size > 0
    printed = capsys.readouterr().out
    assert 'times as fast as A' in printed and 'losses without chance' in printed


@pytest.mark.slow
def test_what_a_gpu_would_run_neither_waits_nor_grows(tmp_path):
    pytest.importorskip('triton')
    result = subprocess.run(
        [
            sys.executable,
            TOOLS / 'counted.py',
            '--models',
            'vit_tiny_rvsa',
            '--size',
            '64',
            '--json',
            tmp_path / 'rows.json',
        ],
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ours, paper, _ = json.loads((tmp_path / 'rows.json').read_text())
    assert ours['launches'] == ours['launches_twice_images'] == ours['launches_twice_objects'] > 0
    assert 0 < ours['backbone_gflop'] < ours['gflop']
    assert 0 < ours['backbone_saved_mb'] < ours['saved_mb']
    assert paper['backbone_gflop'] > 0 and 'launches' not in paper


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--images', '1'], 'needs 2 images'),
        (['--memory', '80'], 'a GPU'),
        (['--cfg-options', 'modle.tasks=1'], 'did you mean model'),
    ],
)
def test_unusable_options_are_refused(options, message, run, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*options)
    assert stop.value.code and message in f'{stop.value} {capsys.readouterr().err}'


def test_captured_steps_are_timed_and_none_is_a_failure():
    class Refused(Repeat):
        def record(self, function):
            raise RuntimeError('operation not permitted')

    model = build_model(dict(a=dict(num_classes=2))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    job = SimpleNamespace(
        model=model,
        optimizer=MixedPrecisionOptimWrapper(optimizer),
        collate=pack_batch,
        matmul_precision='highest',
    )
    batches = [make_samples(dict(a=2), 2, objects=3, size=64, seed=seed) for seed in (0, 1)]
    measure_with = partial(measure.captured_steps, job, batches, 3)
    with pytest.raises(RuntimeError, match='operation not permitted'):
        measure_with(Refused(), torch.device('cpu'))
    found = measure_with(Repeat(), torch.device('cpu'))
    assert found['replays'] == 4 + 3 and 0 < found['host'] <= found['step']
