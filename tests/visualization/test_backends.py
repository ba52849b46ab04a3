"""What TensorBoard, W&B and MLflow get; the packages of the last two are stand-ins."""

import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.visualization import LocalVisBackend, Visualizer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtp.cli.config_check import check_config
from mtp.cli.trackers import add_tracker
from mtp.engine import DrawPredictionsHook
from mtp.visualization.backends import TensorBoardBackend
from mtp.visualization.curves import read_scalars
from tests.conftest import REPO
from tests.engine.hooks.reported import KINDS, samples_of

TOY = REPO / 'tests' / 'tools' / 'toy_config.py'
SCALARS = {'loss': 1.0, 'sota.instance.loss_mask': 2.0, 'lr': 0.1, 'St. Ives/AP': 3.0}


def test_tensorboard_groups_tags_and_shows_config_and_pictures(tmp_path):
    shows = Visualizer(
        name='groups',
        vis_backends=[dict(type=LocalVisBackend), dict(type=TensorBoardBackend)],
        save_dir=str(tmp_path / '20260101_000000'),
    )
    shows.add_config(Config(dict(model=dict(depth=3))))
    shows.add_scalars(SCALARS, step=5)

    class Dataset(SimpleNamespace):
        def __len__(self):
            return 12

    samples = samples_of('classification', tmp_path)
    dataset = Dataset(
        metainfo=KINDS['classification'][2],
        get_data_info=lambda i: dict(img_path=samples[i].img_path, gt_label=i % 3),
    )
    runner = SimpleNamespace(
        visualizer=shows, val_dataloader=SimpleNamespace(dataset=dataset), iter=7
    )
    hook = DrawPredictionsHook()
    hook.before_val(runner)
    hook.after_val_iter(runner, 0, None, samples)
    shows.close()

    found = EventAccumulator(str(next(tmp_path.glob('*/vis_data'))))
    found.Reload()
    tags = found.Tags()
    assert set(tags['scalars']) == {'loss', 'sota/instance/loss_mask', 'lr', 'St. Ives/AP'}
    assert found.Scalars('sota/instance/loss_mask')[0].value == 2
    assert len(tags['images']) == 4 and all(tag.startswith('validation/') for tag in tags['images'])
    assert found.Images(tags['images'][0])[0].step == 7
    (text,) = found.Tensors('config/text_summary')
    assert text.tensor_proto.string_val[0].decode() == '    model = dict(depth=3)\n'
    assert not list(tmp_path.rglob('vis_image/*')), 'no copies beside the log'
    assert read_scalars(tmp_path)['sota.instance.loss_mask'] == {5: 2}, 'the log keeps its names'


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_one_key_of_the_config_adds_a_tracker(name, tmp_path, monkeypatch):
    # mmengine's backend opens the files of the newest logger again, which may be another test's
    MMLogger.get_instance(f'tracker {name}')
    package = mock.MagicMock(spec=None, MlflowException=ValueError)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    monkeypatch.setitem(sys.modules, name, package)
    cfg = Config.fromfile(TOY)
    cfg.merge_from_dict(dict(tracker=name))
    check_config(cfg)
    cfg.work_dir = str(tmp_path)
    add_tracker(cfg)
    shows = Visualizer(
        name=name, vis_backends=cfg.visualizer.vis_backends, save_dir=str(tmp_path / 'log')
    )
    shows.add_config(cfg)
    shows.add_scalars(SCALARS, step=5)
    shows.add_image('validation/a.png', np.zeros((4, 4, 3), np.uint8), 5)
    shows.close()
    if name == 'wandb':
        assert package.init.called and package.config.update.called
        logged = [call.args[0] for call in package.log.call_args_list]
        assert SCALARS in logged and 'validation/a.png' in logged[-1]
    else:
        package.set_tracking_uri.assert_called_with(f'sqlite:///{tmp_path}/mlflow.db')
        package.log_metrics.assert_called_once_with(SCALARS, 5)
        package.log_params.assert_called_once_with({})
        assert package.log_text.call_args.args[1] == 'config.py'
        assert package.log_image.call_args.args[1] == 'validation/a.png'


def test_a_tracker_that_cannot_be_used_is_named(monkeypatch):
    cfg = Config.fromfile(TOY)
    before = list(cfg.visualizer.vis_backends)
    add_tracker(cfg)
    assert cfg.visualizer.vis_backends == before
    monkeypatch.setitem(sys.modules, 'mlflow', None)
    cfg.tracker = 'mlflow'
    with pytest.raises(ValueError, match='pip install mlflow'):
        add_tracker(cfg)
    cfg.tracker = 'wandbb'
    with pytest.raises(ValueError, match='did you mean wandb'):
        add_tracker(cfg)
