"""What runs in week three is tried before step 1, and leaves no trace."""

import copy
import gc
import random
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import EMAHook
from mmengine.runner import ValLoop
from torch.utils.data import ConcatDataset, DataLoader

from mtp.cli import launch
from mtp.cli.arguments import RunOptions
from mtp.data.synthetic import make_samrs
from mtp.engine import ExportEncoderHook, loops
from mtp.engine.batch_size import share_batch
from mtp.engine.hooks import rehearsal
from mtp.engine.hooks.rehearsal import RehearsalError, RehearsalHook
from mtp.evaluation import LoveDASubmission, MultiTaskMetric
from mtp.recipes.shrink import shorten, shrink
from tests.conftest import REPO
from tests.engine.hooks.test_training import toy_runner
from tests.test_finetuning_docs import SNIPPETS, make
from tests.tools.toy import ToyDataset, ToyMetric

DEMO = Path(__file__).parents[3] / 'configs/pretrain/vit_tiny_rvsa_demo.py'
VALIDATION = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type=ToyDataset),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
REHEARSE = {
    'default_hooks.rehearsal.min_iters': 1,
    'val_dataloader': VALIDATION,
    'val_cfg': dict(type=ValLoop),
    'val_evaluator': dict(type=ToyMetric),
}

# kind of recipe -> the docs' config for data of one's own, a figure of its validation
RETINA_NET = SNIPPETS['horizontal_detection'].replace('.dior', '.xview').replace('roi_head.', '')
FINETUNING = {
    'classification': (SNIPPETS['classification'], 'accuracy/top1'),
    'horizontal_detection': (SNIPPETS['horizontal_detection'], 'coco/bbox_mAP_50'),
    'horizontal_detection, RetinaNet': (RETINA_NET, 'coco/bbox_mAP_50'),
    'rotated_detection': (SNIPPETS['rotated_detection'], 'dota/mAP'),
    'segmentation': (SNIPPETS['segmentation'], 'mIoU'),
    'change_detection': (SNIPPETS['change_detection'], 'changed/F1'),
}


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """The demo's config, for an iteration on few images."""
    data = make_samrs(tmp_path_factory.mktemp('data') / 'samrs', num_train=3, num_valid=2)
    roots = {
        f'{loader}_dataloader.dataset.datasets.{i}.data_root': str(data / name)
        for loader in ('train', 'val')
        for i, name in enumerate(('SOTA', 'SIOR', 'FAST'))
    }
    workers = {
        f'{loader}_dataloader.{key}': value
        for loader in ('train', 'val')
        for key, value in (('num_workers', 0), ('persistent_workers', False))
    }
    cfg = launch.load_config(
        RunOptions(
            DEMO,
            cfg_options={
                **roots,
                **workers,
                'train_cfg.max_iters': 1,
                'train_cfg.val_begin': 100,
                'model.backbone.drop_path_rate': 0.3,
            },
        )
    )
    share_batch(cfg, 1)
    cfg.param_scheduler = None  # which needs more iterations
    return cfg


def demo_runner(demo: Config, work_dir: Path, min_iters: int | None):
    cfg = copy.deepcopy(demo)
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    cfg.default_hooks.rehearsal.min_iters = min_iters
    return launch.build_runner(cfg)


def after(runner):
    """Everything that a run leaves, after seeding what it does not seed itself."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    runner.train()
    logged = {
        name: buffer.data[0].tolist()
        for name, buffer in runner.message_hub.log_scalars.items()
        if 'time' not in name
    }
    return (
        logged,
        random.random(),
        np.random.rand(),
        torch.rand(2).tolist(),
        sorted(path.name for path in Path(runner.work_dir).glob('*.pth')),
        {name: value.tolist() for name, value in runner.model.state_dict().items()},
    )


@pytest.mark.slow
def test_the_demo_trains_on_as_without(demo, tmp_path, monkeypatch):
    seen, process = [], MultiTaskMetric.process

    def spy(self, data_batch, data_samples):
        seen.append([sample['dataset'] for sample in data_samples])
        process(self, data_batch, data_samples)

    monkeypatch.setattr(MultiTaskMetric, 'process', spy)
    plain = after(demo_runner(demo, tmp_path / 'plain', None))
    assert not seen
    rehearsed = after(demo_runner(demo, tmp_path / 'rehearsed', 1))
    assert len(seen) == 2 and set(sum(seen, [])) == {'sota', 'sior', 'fast'}
    assert rehearsed == plain


def test_short_runs_go_without_and_a_resumed_one_rehearses_with_its_states(tmp_path, monkeypatch):
    tried, really = [], rehearsal._try
    monkeypatch.setattr(
        rehearsal,
        '_try',
        lambda what, *args, **kwargs: (tried.append(what), really(what, *args, **kwargs))[1],
    )
    whole = toy_runner(tmp_path / 'whole')
    whole.train()
    assert not tried
    resumed = toy_runner(
        tmp_path / 'resumed', resume=True, load_from=f'{tmp_path}/whole/iter_3.pth', **REHEARSE
    )
    resumed.train()
    assert {
        'the metric of the validation',
        'reading a checkpoint back',
        'reading the encoder back',
    } <= set(tried)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def _raise(error):
    raise error


def test_a_failure_is_one_error(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path, **REHEARSE)
    save = runner.save_checkpoint

    def add_one(*args, **kwargs):
        save(*args, **kwargs)
        runner.model.head.weight.data += 1

    for save_checkpoint, message in [
        (
            lambda *args, **kwargs: _raise(OSError('no space left')),
            'saving a checkpoint, .* failed: OSError: no space left. To train all the same',
        ),
        (add_one, 'reading a checkpoint back, .* entries differ .* head.weight'),
    ]:
        monkeypatch.setattr(runner, 'save_checkpoint', save_checkpoint)
        with pytest.raises(RehearsalError, match=message):
            runner.train()
    monkeypatch.setattr(runner, 'save_checkpoint', save)
    monkeypatch.setattr(ExportEncoderHook, 'export', lambda *args: _raise(ValueError('no encoder')))
    with pytest.raises(RehearsalError, match='exporting the encoder, .* ValueError: no encoder'):
        runner.train()


def test_all_processes_end_when_one_fails(monkeypatch):
    monkeypatch.setattr(rehearsal, 'all_gather_object', lambda text: [text, 'OSError: no space'])
    with pytest.raises(RehearsalError, match='failed on 1 of 2 processes, first on 1: OSError: no'):
        rehearsal._try('saving', lambda: None)
    monkeypatch.setattr(rehearsal, 'is_main_process', lambda: False)
    with pytest.raises(SystemExit):
        rehearsal._try('saving', lambda: None)


def stop_before_training(runner, monkeypatch):
    """Build what a hook finds before training; return the one that rehearses."""
    monkeypatch.setattr(loops._Accumulating, 'run', lambda loop: None, raising=False)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, RehearsalHook))
    return hook


def left(runner, folder: Path) -> dict:
    """What a rehearsal may not change, as what can be compared."""
    hub, metrics = runner.message_hub, runner.val_loop.evaluator.metrics
    weights = [value.numpy().tobytes() for value in runner.model.state_dict().values()]
    return dict(
        weights=weights,
        steps=len(runner.optim_wrapper.state_dict()['state']),
        modes=[module.training for module in runner.model.modules()],
        drawn=(
            random.getstate(),
            np.random.get_state()[1].tobytes(),
            torch.get_rng_state().numpy().tobytes(),
        ),
        hub=(dict(hub.runtime_info), list(hub.log_scalars)),
        level=runner.logger.level,
        metrics=[
            ({name: id(value) for name, value in vars(metric).items()}, len(metric.results))
            for metric in metrics
        ],
        files=sorted(path for path in folder.rglob('*') if path.suffix != '.log'),
    )


@pytest.mark.parametrize('kind', FINETUNING)
def test_finetuning_rehearses_without_a_trace(kind, tmp_path, monkeypatch):
    task, (text, figure) = kind.split(',')[0], FINETUNING[kind]
    configs = tmp_path / 'configs'
    (configs / 'finetune/task/mine').mkdir(parents=True)
    shutil.copytree(REPO / 'configs/_base_', configs / '_base_')
    (configs / 'finetune/task/mine/own.py').write_text(text)
    make(tmp_path / 'data/mine', task)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Config, 'pretty_text', '')  # formatting takes longer than the rehearsal
    monkeypatch.setattr(gc, 'collect', lambda: 0)  # as after the loading of each data set
    cfg = Config.fromfile(configs / 'finetune/task/mine/own.py')
    shrink(cfg, 64)
    shorten(cfg, num_images=2, steps=3)
    cfg.default_hooks.checkpoint.save_best, cfg.default_hooks.checkpoint.rule = figure, 'greater'
    cfg.visualizer.vis_backends = []
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'run'), experiment_name=str(tmp_path)))
    share_batch(cfg, 1)
    runner = launch.build_runner(cfg)
    hook = stop_before_training(runner, monkeypatch)
    tried, really = [], rehearsal._try
    monkeypatch.setattr(
        rehearsal,
        '_try',
        lambda what, *args, **kwargs: (tried.append(what), really(what, *args, **kwargs))[1],
    )
    before = left(runner, tmp_path)
    hook.min_iters = runner.max_iters + 1
    hook.before_train(runner)
    assert not tried
    hook.min_iters = runner.max_iters
    hook.before_train(runner)
    assert {'the metric of the validation', 'reading a checkpoint back'} <= set(tried)
    assert left(runner, tmp_path) == before


@pytest.mark.parametrize(
    ('images', 'batch_size', 'expected'),
    [(7, 64, [list(range(7))]), (1, 1, [[0]]), (3, 2, [[0, 1], [2]]), (8, 2, [[1, 3], [5, 7]])],
)
def test_of_few_images_each_is_validated_once(images, batch_size, expected):
    assert rehearsal._choose(DataLoader(range(images), batch_size)) == expected


def test_a_small_data_set_among_large_ones_is_validated():
    both = ConcatDataset([range(90), range(2)])
    assert rehearsal._choose(DataLoader(both, 2)) == [[22, 67], [90, 91]]


class KeepingMetric(ToyMetric):
    """Keeps the first results for good, writes a file, as mmdet's ``CocoMetric`` may, and draws."""

    seen: ClassVar[list[int]] = []

    def __init__(self, outfile_prefix: str) -> None:
        super().__init__()
        self.outfile_prefix, self.first = outfile_prefix, None

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        self.first = self.first or results
        self.seen.append(len(results))
        random.random(), np.random.rand(), torch.rand(1)
        if self.outfile_prefix:
            Path(self.outfile_prefix).touch()
        return super().compute_metrics(results)


def test_metrics_keep_and_write_nothing(tmp_path, monkeypatch):
    evaluator = [
        dict(type=KeepingMetric, outfile_prefix=str(tmp_path / 'written')),
        dict(type=LoveDASubmission, out_dir=str(tmp_path)),
    ]
    runner = toy_runner(
        tmp_path / 'run',
        **dict(REHEARSE, val_evaluator=evaluator, custom_hooks=[dict(type=EMAHook)]),
    )
    hook = stop_before_training(runner, monkeypatch)
    before = left(runner, tmp_path)
    hook.before_train(runner)
    assert left(runner, tmp_path) == before
    assert KeepingMetric.seen == [4]


@pytest.mark.parametrize('figure', ['mean', 'auto', 'meen'])
def test_the_best_checkpoint_is_chosen_by_a_figure_that_there_is(figure, tmp_path, monkeypatch):
    runner = toy_runner(
        tmp_path,
        **REHEARSE,
        **{'default_hooks.checkpoint.save_best': figure, 'default_hooks.checkpoint.rule': 'less'},
    )
    hook = stop_before_training(runner, monkeypatch)
    if figure == 'meen':
        with pytest.raises(RehearsalError, match='save_best=meen is no figure .* gives mean'):
            hook.before_train(runner)
    else:
        hook.before_train(runner)
