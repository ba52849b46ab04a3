"""Updates of several batches: counted as one iteration, with the mean gradient, exact on resume."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mtp.engine import AccumulatingEpochLoop, SeedIterationHook
from mtp.engine.hooks import seed_iteration
from tests.engine.hooks.test_training import toy_runner
from tests.tools.toy import ToyDataset

ACCUMULATED = {'train_cfg.accumulation': 3, 'default_hooks.logger.interval': 1}


def weights(runner):
    return [value.clone() for value in runner.model.state_dict().values()]


def test_iterations_are_updates_and_a_resumed_run_is_exact(tmp_path):
    whole = toy_runner(tmp_path / 'whole', **ACCUMULATED)
    whole.train()
    assert whole.iter == 6 and (tmp_path / 'whole/iter_6.pth').is_file()
    assert len(whole.message_hub.get_scalar('train/loss').data[0]) == 6
    saved = torch.load(tmp_path / 'whole/iter_3.pth', weights_only=False)
    assert saved['param_schedulers'][0]['last_step'] == 3
    resumed = toy_runner(
        tmp_path / 'resumed', resume=True, load_from=f'{tmp_path}/whole/iter_3.pth', **ACCUMULATED
    )
    resumed.train()
    assert all(map(torch.equal, weights(resumed), weights(whole)))


def test_updates_of_an_epoch_take_the_mean_gradient_and_the_last_what_is_left(tmp_path):
    sampler = dict(type='DefaultSampler', shuffle=False, _delete_=True)
    runner = toy_runner(
        tmp_path,
        **{
            'train_cfg': dict(
                type=AccumulatingEpochLoop, max_epochs=2, accumulation=3, _delete_=True
            ),
            'train_dataloader.sampler': sampler,
            'param_scheduler': None,
            'optim_wrapper.optimizer': dict(type='SGD', lr=0.1, _delete_=True),
            'model.backbone.dropout': 0.0,
            'default_hooks.logger.log_metric_by_epoch': True,
            'log_processor.by_epoch': True,
        },
    )
    start = Config(dict(value=None))
    runner.register_hook(_Remember(start), priority='LOWEST')
    runner.train()
    assert runner.iter == runner.max_iters == 4  # seven images in batches of two: 3 + 1 batches

    model = type(runner.model)(backbone={'dropout': 0.0})
    model.load_state_dict(start.value)
    inputs = [ToyDataset()[i]['inputs'] for i in range(7)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in [(0, 2, 4), (6,)] * 2:
        losses = [model.parse_losses(model(inputs[i : i + 2], mode='loss'))[0] for i in update]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    for found, expected in zip(weights(runner), model.state_dict().values()):
        torch.testing.assert_close(found, expected)


def test_a_wrapper_that_cannot_sum_gradients_is_refused(tmp_path):
    runner = toy_runner(tmp_path, **ACCUMULATED, **{'optim_wrapper.type': OptimWrapper})
    with pytest.raises(ValueError, match='MixedPrecisionOptimWrapper, not OptimWrapper: set it'):
        runner.train()


class _Remember(SeedIterationHook):
    """Keeps the weights that training starts from."""

    def __init__(self, start):
        self.start = start

    def before_train(self, runner):
        self.start.value = {
            name: value.clone() for name, value in runner.model.state_dict().items()
        }


@pytest.mark.parametrize(('rank', 'batch'), [(0, 0), (3, 0), (1, 2)])
def test_a_batch_draws_the_same_on_every_number_of_processes(monkeypatch, rank, batch):
    drawn = []
    for processes, process, index in [(4, rank, batch), (1, 0, 4 * batch + rank)]:
        monkeypatch.setattr(seed_iteration, 'get_world_size', lambda processes=processes: processes)
        SeedIterationHook().before_train_batch(SimpleNamespace(seed=1, iter=5, rank=process), index)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
