"""A process that dies: torchrun starts all again, and they go on from the last checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_whose_process_was_killed_goes_on_from_its_last_checkpoint(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
            '--max-restarts=1',
            'tools/train.py',
            'tests/tools/elastic_config.py',
            '--launcher',
            'pytorch',
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            'model_wrapper_cfg.type=mtp.engine.ShardedModel',
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPO), 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'killed').exists()
    assert 'resumed after 3 steps' in result.stdout + result.stderr
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_6.pth')
    assert (tmp_path / 'iter_6.pth').is_dir() and (tmp_path / 'encoder.pth').is_file()
