"""Nothing in a checkpoint is executed; what it lacks is said."""

import inspect
import json
import re
import socket
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mtp
from mtp.cli.config import read_config
from mtp.engine import self_description
from mtp.export.safetensors_file import export_safetensors
from mtp.files import UnusableFileError
from mtp.models import portable
from mtp.resources import config_names, configs
from tests.prediction.small import config_of, save

pytestmark = pytest.mark.usefixtures('few_objects')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return the folder of a rotated detector's checkpoint, and its config."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = config_of('rotated_detection', folder)
    save(cfg, folder / 'a.pth')
    return folder, cfg


@pytest.fixture
def changed(trained, tmp_path, monkeypatch):
    """Return a function that saves a checkpoint with another description."""
    monkeypatch.setattr(socket.socket, 'connect', lambda *_: pytest.fail('an address is opened'))
    checkpoint = torch.load(trained[0] / 'a.pth', weights_only=True)
    content = json.loads(checkpoint['meta'][self_description.KEY])

    def change(edit):
        edit(content)
        checkpoint['meta'][self_description.KEY] = json.dumps(content)
        torch.save(checkpoint, tmp_path / 'b.pth')
        return tmp_path / 'b.pth'

    return change


TEXT = '__import__("pathlib").Path("run").touch()'


@pytest.mark.parametrize(
    'edit',
    [
        lambda c: c['model'].update(type='torch.hub.load'),
        lambda c: c['model']['roi_head']['bbox_head']['loss_cls'].update(type='torch.hub.load'),
        lambda c: c['model']['rpn_head'].update(norm=dict(name='os.system')),
        lambda c: c['model']['test_cfg']['rpn']['nms'].update(type=TEXT),
        lambda c: c['model']['backbone'].update(type='subprocess.Popen', args=['touch', 'run']),
        lambda c: c['model']['backbone'].update(weights='https://somewhere/a.pth'),
        lambda c: c['pipeline'].insert(0, dict(type='mmengine.config.config.Config.fromfile')),
        lambda c: c['model'].update(type='mmpretrain.models.classifiers.HuggingFaceClassifier'),
    ],
)
def test_only_registered_classes_are_used(edit, changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableFileError, match='b.pth: its config names'):
        mtp.load(changed(edit), device='cpu')
    assert not (tmp_path / 'run').exists()


def test_weights_of_others_are_not_fetched(changed):
    def edit(content):
        pretrained = dict(type='Pretrained', checkpoint='https://somewhere/a.pth')
        content['model']['init_cfg'] = content['model']['backbone']['init_cfg'] = pretrained
        content['model']['backbone']['pretrained'] = 'https://somewhere/b.pth'

    assert mtp.load(changed(edit), device='cpu').classes == ('car', 'plane')


def test_classes_that_can_run_text_or_read_pickles_are_denied():
    """What upstream adds must be looked at: then :data:`portable.DENIED` grows."""
    able = re.compile(
        r'(?<![\w.])(?:eval|exec)\(|torch\.hub|from_pretrained\(|urlopen|requests\.|__import__'
        r'|import_module\(|pickle\.load|torch\.load\(|fromfile\(|create_model\(|mmengine\.load'
    )
    found = []
    for package in (*portable.LIBRARIES, 'mtp'):
        for name, entry in portable.table(package).items():
            lines = inspect.getsource(entry).splitlines()
            code = [line for line in lines if not line.strip().startswith(('>>>', '#'))]
            found += [name] if able.search('\n'.join(code)) else []
    assert found == []


def test_all_configs_can_be_kept_as_plain_data():
    for name in config_names():
        cfg = read_config(configs() / f'{name}.py')
        text = json.dumps(portable.to_plain(cfg.model))
        assert portable.to_plain(portable.from_plain(json.loads(text))) == json.loads(text)


def test_a_package_of_ones_own_has_to_be_allowed(changed, tmp_path, monkeypatch):
    (tmp_path / 'mypackage.py').write_text(
        'from mmdet.models.detectors import FasterRCNN\nclass Mine(FasterRCNN):\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = changed(lambda content: content['model'].update(type='mypackage.Mine'))
    with pytest.raises(UnusableFileError, match='mypackage.Mine.*allow='):
        mtp.load(path, device='cpu')
    assert 'mypackage' not in sys.modules
    model = mtp.load(path, device='cpu', allow=['mypackage'])
    assert type(model.module).__name__ == 'Mine'


def test_checkpoints_of_before_need_their_config(trained, tmp_path):
    folder, cfg = trained
    checkpoint = torch.load(folder / 'a.pth', weights_only=True)
    del checkpoint['meta'][self_description.KEY]
    checkpoint['meta']['cfg'] = TEXT
    torch.save(checkpoint, tmp_path / 'old.pth')
    with pytest.raises(UnusableFileError, match='old.pth: .*config='):
        mtp.load(tmp_path / 'old.pth')
    config = next((folder / 'run' / 'config').glob('*.py'))
    model = mtp.load(tmp_path / 'old.pth', config=config, device='cpu')
    assert model.classes == ('car', 'plane') and model.task == 'rotated_detection'
    assert Config.fromfile(config).model.type == cfg.model.type

    torch.save(dict(state_dict={}), tmp_path / 'encoder.pth')
    with pytest.raises(UnusableFileError, match='encoder.pth: .*what model'):
        mtp.load(tmp_path / 'encoder.pth')
    content = dict(format=99, task='', scope='', model={}, pipeline=[], datasets={})
    for text, said in (('{', 'no json'), ('{}', 'lacks'), (json.dumps(content), 'format 99')):
        torch.save(dict(meta={self_description.KEY: text}), tmp_path / 'c.pth')
        with pytest.raises(UnusableFileError, match=said):
            mtp.load(tmp_path / 'c.pth')


def test_exported_weights_are_loaded_alike(trained, tmp_path):
    export_safetensors(trained[0] / 'a.pth', tmp_path / 'out')
    models = [mtp.load(path, device='cpu') for path in (trained[0] / 'a.pth', tmp_path / 'out')]
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    one, two = (model(image, score=0.0) for model in models)
    np.testing.assert_array_equal(one.boxes, two.boxes)
    assert one.classes == two.classes and len(one) > 0
