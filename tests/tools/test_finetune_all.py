"""All recipes in small, with one command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtp.recipes import shrink, table
from tests.tools.test_train import REPO


@pytest.mark.parametrize('dataset', ['eurosat', 'dior', 'dota_v1', 'spacenet_v1', 'oscd'])
@pytest.mark.parametrize('model', ['vit_b_rvsa', 'internimage_xl'])
def test_small_recipe_keeps_its_shape(dataset, model):
    cfg = Config.fromfile(table.config_of(dataset, model))
    original = cfg.copy()
    shrink.shrink(cfg, 64)
    shrink.shorten(cfg, num_images=10, steps=16)
    assert cfg.model.backbone.name == shrink.TINY[model]['name']
    assert cfg.model.backbone.init_cfg is None and cfg.model.backbone.img_size == 64
    assert cfg.total_batch_size == 4

    # each step of the pipeline is there; what had the model's size has it again
    old_side = original.model.backbone.img_size
    pairs = zip(
        table.nodes(original.train_dataloader.dataset.pipeline),
        table.nodes(cfg.train_dataloader.dataset.pipeline),
        strict=True,
    )
    sizes = [(old[key], new[key]) for old, new in pairs for key in shrink.SIZES if key in old]
    assert sizes
    for old, new in sizes:
        assert new == (64 if old == old_side else (64, 64)) and old in (
            old_side,
            (old_side, old_side),
        )

    warm, fall = cfg.param_scheduler
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    assert warm.end == 2 and length >= (3 if warm.by_epoch else 2)
    assert length * (1 if 'max_iters' in cfg.train_cfg else 3) >= 16
    assert fall.get('T_max', length - 2) == length - 2
    assert fall.get('milestones', [length - 1]) == [length - 1]


def test_data_root_moves_everywhere():
    cfg = Config.fromfile(table.config_of('dior', 'vit_b_rvsa'))
    table.set_data_root(cfg, '/elsewhere/dior')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == '/elsewhere/dior'


def finetune_all(work_dir: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            str(REPO / 'tools' / 'finetune_all.py'),
            '--smoke',
            '--work-dir',
            str(work_dir),
            '--only',
            'svcd',
            'loveda',
            '--models',
            'vit_b_rvsa',
        ],
        capture_output=True,
        text=True,
        cwd=work_dir,
    )


@pytest.mark.slow
def test_failures_are_named_and_a_second_start_does_only_what_is_missing(tmp_path):
    broken = tmp_path / 'svcd'
    (broken / 'data').mkdir(parents=True)
    (broken / 'data.done').touch()  # it claims to be prepared, but there is nothing
    first = finetune_all(tmp_path)
    assert first.returncode == 1
    assert f'failed: svcd vit_b_rvsa: FileNotFoundError: no folder {broken}' in first.stderr
    assert str(broken / 'vit_b_rvsa' / 'log.txt') in first.stderr
    rows = [line.split() for line in first.stdout.splitlines()]
    assert ['svcd', 'vit_b_rvsa', 'FAILED'] in rows
    result = tmp_path / 'loveda' / 'vit_b_rvsa' / 'result.json'
    row = json.loads(result.read_text())
    assert row['images'] == 6 and row['figure'] == 'loveda.zip of 2 images'
    (checkpoint,) = result.parent.glob('iter_*.pth')
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    assert state['backbone.pos_embed'].shape == (1, 16, 128)

    (broken / 'data.done').unlink()
    finished = result.stat().st_mtime_ns
    second = finetune_all(tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert result.stat().st_mtime_ns == finished
    (svcd,) = (line for line in second.stdout.splitlines() if line.startswith('svcd'))
    assert 'F1 of changed: ' in svcd
    assert '1 of these were finished before' in second.stdout
