"""What a checkpoint holds is data: no code of it runs, and faults are one line that names it."""

import http.server
import threading

import pytest
import safetensors.torch
import torch
from mmengine.runner import CheckpointLoader, checkpoint

from mtp.files import UnusableFileError
from mtp.models.weights.loading import read_state_dict
from mtp.models.weights.safe_loading import load_safely
from tests.bad_inputs import Call
from tests.engine.hooks.test_training import toy_runner


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> dict:
    runner = toy_runner(tmp_path_factory.mktemp('toy'), train_cfg=dict(max_iters=3))
    runner.train()
    return torch.load(f'{runner.work_dir}/iter_3.pth', weights_only=False)


def resume(content: object, folder) -> None:
    """Resume from a checkpoint, up to the first iteration."""
    torch.save(content, folder / 'a.pth')
    runner = toy_runner(
        folder / 'run', resume=True, load_from=str(folder / 'a.pth'), train_cfg=dict(max_iters=3)
    )
    runner.train()


def test_text_of_a_config_is_not_executed(saved, tmp_path):
    text = f'open({str(tmp_path / "ran")!r}, "w")\n'
    resume(dict(saved, meta=dict(saved['meta'], config=text)), tmp_path)
    assert not (tmp_path / 'ran').exists()
    assert load_safely(tmp_path / 'a.pth')['meta']['cfg'] == saved['meta']['cfg']


def without_groups(content: dict) -> dict:
    return dict(content, optimizer=dict(content['optimizer'], param_groups=[]))


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda content: [content], 'holds no state dict'),
        (lambda content: dict(content, state_dict={}), 'holds no state dict'),
        (lambda content: dict(content, meta=dict(content['meta'], iter=-5)), 'has -5 as iter'),
        (lambda content: dict(content, meta={}), 'names no iter'),
        (lambda content: dict(content, message_hub=[]), 'no message_hub'),
        (
            without_groups,
            'ValueError: loaded state dict has a different number of parameter groups',
        ),
        (lambda content: dict(content, param_schedulers=[3]), 'TypeError'),
    ],
)
def test_faults_of_content_name_the_file(saved, tmp_path, change, reason):
    with pytest.raises(UnusableFileError, match=rf'a\.pth[^\n]*{reason}[^\n]*$'):
        resume(change(saved), tmp_path)


def test_weights_under_another_name_are_loaded(saved, tmp_path):
    torch.save({'model': saved['state_dict']}, tmp_path / 'a.pth')
    runner = toy_runner(tmp_path / 'run', load_from=str(tmp_path / 'a.pth'))
    runner.load_or_resume()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, saved['state_dict'][name])


def test_of_two_files_of_weights_the_safetensors_is_taken(saved, tmp_path, caplog):
    weights = {name: value + 1 for name, value in saved['state_dict'].items()}
    torch.save({'weight': Call(tmp_path / 'ran')}, tmp_path / 'a.pth')
    safetensors.torch.save_file(weights, tmp_path / 'a.safetensors')
    for found in (
        read_state_dict(tmp_path / 'a.pth'),
        CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth')),
    ):
        assert torch.equal(found['head.weight'], weights['head.weight'])
    assert not (tmp_path / 'ran').exists()
    resume(saved, tmp_path)  # exactly the file that was named


def test_the_log_of_a_checkpoint_changes_nothing_else(saved, tmp_path):
    buffer = saved['message_hub']['log_scalars']['train/loss']
    methods = dict(type(buffer)._statistics_methods)
    buffer._statistics_methods['mean'] = 5
    torch.save({'log': buffer}, tmp_path / 'a.pth')
    type(buffer)._statistics_methods.update(methods)
    assert load_safely(tmp_path / 'a.pth')['log'].mean() == buffer.mean()
    assert type(buffer)._statistics_methods == methods


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Serve a good and an evil file; yield the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(tmp_path / 'web'))

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / 'web').mkdir()
    torch.save({'weight': torch.ones(2)}, tmp_path / 'web/good.pth')
    torch.save({'weight': Call(tmp_path / 'ran')}, tmp_path / 'web/evil.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'web'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def test_every_scheme_is_safe_or_refused(web, tmp_path, monkeypatch):
    names = {'evil': f'{web}/evil.pth', 'good': f'{web}/good.pth'}
    for models in ('get_torchvision_models', 'get_mmcls_models', 'get_external_models'):
        monkeypatch.setattr(checkpoint, models, lambda: names)
    monkeypatch.setattr(checkpoint, 'get_deprecated_model_names', dict)
    zoos = ('modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://')
    reached = set()
    for prefix in (*zoos, 'http://', 'https://', 's3://', 'a:s3://', 'petrel://', 'pavi://', ''):
        address = f'{prefix}evil' if prefix in zoos else f'{prefix}127.0.0.1:1/evil.pth'
        address = names['evil'] if prefix == 'http://' else address
        address = str(tmp_path / 'web/evil.pth') if not prefix else address
        reached.add(CheckpointLoader._get_checkpoint_loader(address))
        with pytest.raises(UnusableFileError, match=r'evil'):
            CheckpointLoader.load_checkpoint(address)
    assert reached == set(CheckpointLoader._schemes.values()), 'a scheme of mmengine is not tried'
    names['evil'] = 'evil.pth'  # a file of mmengine's folder
    with pytest.raises(UnusableFileError, match='cannot be read safely'):
        CheckpointLoader.load_checkpoint('open-mmlab://evil')
    assert not (tmp_path / 'ran').exists()
    assert CheckpointLoader.load_checkpoint('torchvision://good')['weight'].tolist() == [1, 1]
