"""A task that mtp lacks is four files: its row, its head, its metric, its config."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mtp.cli import launch
from mtp.cli.arguments import RunOptions
from mtp.data import Flip, LoadCrop, LoadImage, LoadLabels, PackedDataset, PackLabels
from mtp.data.packed import pack
from mtp.data.synthetic import make_samrs
from mtp.engine.batch_size import share_batch
from mtp.models import MultiTaskDataPreprocessor
from mtp.registry import DATASETS
from mtp.sample_fields import IGNORED, pack_batch
from mtp.visualization.samples import draw_result
from mtp.visualization.visualizer import CAPTION, MARGIN
from tests.models.density.row import DensityLabel

CONFIG = Path(__file__).with_name('config.py')
MTP = Path(__file__).parents[3] / 'mtp'
_names = itertools.count()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_samrs(tmp_path_factory.mktemp('samrs') / 'data', 6, 2, image_size=64)


def load_config(data, work_dir, iterations):
    options = {
        f'{loader}_dataloader.dataset.datasets.{i}.data_root': str(data / name)
        for loader in ('train', 'val')
        for i, name in enumerate(('SOTA', 'SIOR', 'FAST'))
    }
    cfg = launch.load_config(
        RunOptions(
            CONFIG,
            work_dir,
            cfg_options={
                **options,
                'train_cfg.max_iters': iterations,
                'train_cfg.val_interval': iterations,
            },
        )
    )
    share_batch(cfg, 1)
    cfg.experiment_name = f'density{next(_names)}'
    return cfg


def history(runner, name):
    return runner.message_hub.get_scalar(name).data[0]


def table_of_metrics(runner):
    text = next(Path(runner.log_dir).glob('*.log')).read_text()
    lines = text[text.rindex('images evaluated, in percent') :].splitlines()
    tasks, (_, _, *figures) = lines[1].split(), lines[2].split()  # after 'data set'
    figures = [f'{task}/{figure}' for task, figure in zip(tasks, figures)]
    return {name: dict(zip(figures, cells)) for name, *cells in map(str.split, lines[4:7])}


def make_dataset(data, tmp_path):
    init_default_scope('mtp')
    return DATASETS.build(load_config(data, tmp_path, 1).train_dataloader.dataset)


def test_mtp_does_not_know_it():
    assert not [path for path in MTP.rglob('*.py') if 'density' in path.read_text().lower()]


@pytest.mark.slow
def test_its_loss_halves_and_it_is_judged_and_drawn(data, tmp_path):
    cfg = load_config(data, tmp_path, 150)
    for dataset in (*cfg.train_dataloader.dataset.datasets, *cfg.val_dataloader.dataset.datasets):
        dataset.tasks = dataset.tasks[-1:]
    cfg.model.tasks = dict(density=cfg.model.tasks.density)
    runner = launch.build_runner(cfg)
    runner.train()
    losses = history(runner, 'train/loss')
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2
    rows = table_of_metrics(runner)
    assert list(rows) == ['sota', 'sior', 'fast']
    for name, row in rows.items():
        error = runner.message_hub.get_scalar(f'val/{name}/density/MAE').current()
        assert float(row['density/MAE']) == pytest.approx(error, abs=0.01) and error < 3

    loader = runner.val_dataloader
    (sample,) = runner.model.val_step(loader.collate_fn([loader.dataset[0]]))
    image = np.full((64, 64, 3), 128, np.uint8)
    picture = draw_result([image], sample, loader.dataset.metainfo)
    tile = 384
    for top in (CAPTION, 2 * CAPTION + tile):  # truth, prediction
        drawn = picture[top : top + tile, 2 * MARGIN + tile : 2 * (MARGIN + tile)].astype(int)
        assert (drawn[..., 0] - drawn[..., 1]).max() > 200 > 20 > drawn[0, 0, 0] - drawn[0, 0, 1]


@pytest.mark.slow
def test_beside_the_three_others_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    cfg = load_config(data, tmp_path / 'whole', 3)
    cfg.default_hooks.checkpoint.interval = 2
    whole = launch.build_runner(cfg)
    whole.train()
    for task in (
        'semantic.loss_ce',
        'instance.loss_mask',
        'rotated.loss_bbox',
        'density.loss_density',
    ):
        for name in ('sota', 'sior', 'fast'):
            assert np.isfinite(history(whole, f'train/{name}.{task}')).all()
    assert list(table_of_metrics(whole)['sota']) == [
        'semantic/mIoU',
        'semantic/mIoU_without_background',
        'instance/bbox_mAP',
        'instance/segm_mAP',
        'rotated/mAP',
        'rotated/mAP_75',
        'rotated/mean_angle_error',
        'density/MAE',
    ]

    cfg = load_config(data, tmp_path / 'resumed', 3)
    cfg.update(resume=True, load_from=str(tmp_path / 'whole' / 'iter_2.pth'))
    cfg.train_cfg.val_interval = 100
    resumed = launch.build_runner(cfg)
    torch.manual_seed(99)  # the state that a fresh process happens to be in
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flipping_twice_is_the_identity(data, tmp_path, direction):
    record = make_dataset(data, tmp_path).datasets[0].get_data_info(0)
    results = LoadLabels().transform(LoadImage().transform(record))
    before = results['gt_density']
    assert before.sum() == pytest.approx(len(record['labels'].centres), rel=1e-5)
    once = Flip(prob=1.0, direction=direction).transform(results)['gt_density']
    assert not np.array_equal(once, before)
    assert np.array_equal(
        Flip(prob=1.0, direction=direction).transform(results)['gt_density'], before
    )


def test_it_stays_on_its_objects_and_travels_with_the_batch(data, tmp_path):
    dataset = make_dataset(data, tmp_path)
    samples = [dataset[i % len(dataset), i] for i in range(12)]
    flips = {sample['data_samples'].flip_direction for sample in samples}
    assert flips == {'horizontal', 'vertical', 'diagonal', None}
    before = [sample['data_samples'].gt_density.density for sample in samples]
    batch = MultiTaskDataPreprocessor(64)(pack_batch(samples), training=True)
    for density, sample in zip(before, batch['data_samples']):
        padded = sample.gt_density.density
        height, width = density.shape[1:]
        assert padded.shape == (1, 64, 64) and torch.equal(padded[:, :height, :width], density)
        assert padded.sum().item() == pytest.approx(density.sum().item(), rel=1e-5)
        y, x = divmod(density[0].argmax().item(), width)
        around = (
            sample.gt_sem_seg.sem_seg[0, max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] % IGNORED
        )
        assert density.max() == 0 or around.any()


def test_it_is_packed_and_known_in_other_processes(data, tmp_path):
    source = make_dataset(data, tmp_path).datasets[0]
    assert b'tests.models.density.row' in pickle.dumps(source)  # so that a spawned one imports it
    pack(source, tmp_path / 'packed', workers=1)
    pipeline = [dict(type=LoadCrop, size=64, ratio_range=(1, 1)), dict(type=PackLabels)]
    packed = PackedDataset(tmp_path / 'packed', tasks=[dict(type=DensityLabel)], pipeline=pipeline)
    found = packed[0]['data_samples']
    assert found.keys() == ['gt_density']
    count = len(source.get_data_info(0)['labels'].centres)
    assert found.gt_density.density.sum().item() == pytest.approx(count, rel=1e-5)
