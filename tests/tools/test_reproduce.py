"""Released finetuned checkpoints: converted, evaluated, set beside the published figures."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mtp.data.datasets import DATASETS
from mtp.data.prepare import prepare
from mtp.evaluation import Submission
from mtp.models.weights.finetuned import convert, load_released
from mtp.recipes import table
from mtp.recipes.reproduce import compare
from mtp.recipes.shrink import shrink
from mtp.registry import MODELS
from tests.tools.test_train import REPO, run_tool


def build(cfg: Config, device: str = 'cpu') -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.device(device):
        return MODELS.build(cfg.model)


def tiny(dataset: str, model: str = 'vit_b_rvsa') -> Config:
    cfg = Config.fromfile(table.config_of(dataset, model))
    shrink(cfg, 64)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


def release(model: torch.nn.Module, path: Path, **changes: torch.Tensor | None) -> Path:
    """Save a model in the form of a released checkpoint; ``None`` leaves an entry out."""
    state = {**model.state_dict(), **changes}
    state = {f'module.{key}': value for key, value in state.items() if value is not None}
    torch.save(dict(meta=dict(epoch=12, CLASSES=('a', 'b')), state_dict=state, optimizer={}), path)
    return path


# ---------------------------------------------------------------------------------- the table


def test_table_covers_every_config_and_tells_what_the_servers_compute():
    results = table.read_results()
    folders = {
        path.parent.name
        for task in (
            'classification',
            'segmentation',
            'change_detection',
            'horizontal_detection',
            'rotated_detection',
        )
        for path in table.CONFIGS.glob(f'{task}/*/*.py')
    }
    assert set(results) == folders
    assert {table.dataset_of(name)[0] for name in results} == set(DATASETS)
    for name, entry in results.items():
        models = table.configs(name)
        for figures in (entry.published, entry.without_mtp, *entry.logged.values()):
            assert set(figures) <= set(models), name
            assert all(10 < figure < 100 for figure in figures.values())
        cfg = Config.fromfile(models['vit_b_rvsa'])
        assert (entry.key is None) == issubclass(cfg.test_evaluator.type, Submission)
        assert entry.fraction == (cfg.default_scope in ('mmdet', 'mmrotate') and bool(entry.key))


def test_pages_are_up_to_date():
    made = runpy.run_path(str(REPO / 'tools' / 'make_docs.py'))
    for path, text in made['pages'](REPO).items():
        assert path.read_text() == text, 'run tools/make_docs.py'


def test_several_scales_are_in_the_name():
    assert table.dataset_of('dota_v1') == ('dota_v1', False)
    assert table.dataset_of('dota_v1_ms') == ('dota_v1', True)
    assert table.title('dota_v1_ms') == 'DOTA-V1.0, multi-scale'


def test_comparison():
    results = table.Results(
        'AP50',
        'coco/bbox_mAP_50',
        True,
        published={'a': 79.4},
        logged={'coco/bbox_mAP': {'a': 53.3}},
    )
    metrics = {'coco/bbox_mAP_50': 0.79, 'coco/bbox_mAP': 0.54}
    _, paper, log = compare(results, 'a', metrics).splitlines()
    assert paper.split() == ['AP50', '79.00', '79.40', '-0.40']
    assert log.split()[-3:] == ['54.00', '53.30', '+0.70']
    _, only = compare(results, 'b', metrics).splitlines()
    assert only.split() == ['AP50', '79.00', 'none']


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match='no data set is called .levri.. There are: eurosat'):
        table.config_of('levri', 'vit_b_rvsa')
    with pytest.raises(ValueError, match='no config of levir is of a model .vit_l.. There are: '):
        table.config_of('levir', 'vit_l')


# ------------------------------------------------------------------------------ the conversion

KEYS = {  # config -> head and backbone among the recorded key lists
    'eurosat/vit_b_rvsa': ('cls/eurosat/b', 'finetune_cls_b_224'),
    'eurosat/internimage_xl': ('cls/eurosat/xl', 'finetune_cls_xl_224'),
    'xview/vit_b_rvsa': ('hdet/xview/b', 'finetune_hdet_b_416'),
    'dior/vit_b_rvsa': ('hdet/dior/b', 'finetune_hdet_b_800'),
    'dior_r/vit_b_rvsa': ('rdet/diorr/b', 'finetune_rdet_b_800'),
    'dota_v1_ms/vit_b_rvsa': ('rdet/dotav1/b', 'finetune_rdet_b_1024'),
    'spacenet_v1/vit_b_rvsa': ('seg/spacenetv1/b', 'finetune_seg_b_384'),
    'levir/vit_b_rvsa': ('change/levir/b', 'finetune_change_b_256'),
}


@pytest.mark.parametrize('name', KEYS)
def test_released_key_lists_fit_strictly(name, shared):
    head, backbone = KEYS[name]
    keys = shared / 'golden' / 'keys'
    head = json.loads((keys / 'finetune_heads.json').read_text())[head]['non_backbone_keys']
    backbone = json.loads((keys / 'backbones.json').read_text())[backbone]['keys']
    described = {**{f'backbone.{key}': value for key, value in backbone.items()}, **head}
    state = {}
    for key, value in described.items():
        dtype, _, shape = value.partition('[')
        state[key] = torch.empty(
            json.loads(f'[{shape}'), dtype=getattr(torch, dtype), device='meta'
        )
    model = build(Config.fromfile(table.config_of(*name.split('/'))), 'meta')
    converted, changes = convert(state, model, 'x.pth')
    assert changes == []
    model.load_state_dict(converted)


def test_what_no_forward_uses_may_be_there_or_not(tmp_path):
    model, other = build(tiny('eurosat')), build(tiny('eurosat'))
    positions = model.state_dict()['backbone.pos_embed']
    path = release(
        model,
        tmp_path / 'x.pth',
        **{
            'backbone.cls_token': torch.ones(1, 1, 128),
            'backbone.pos_embed': torch.cat([torch.ones(1, 1, 128), positions], dim=1),
            'backbone.norm.weight': None,
            'backbone.fpn2.0.bias': None,
        },
    )
    changes = load_released(other, path)
    assert changes[0] == 'The class token is left out.'
    assert 'missing from the file: backbone.norm.weight, backbone.fpn2.0.bias' in changes[1]
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(other.eval()(image)[-1], model.eval()(image)[-1])

    segmentor = build(tiny('loveda'))
    path = release(segmentor, path, **{'backbone.norm.weight': torch.ones(128)})
    assert load_released(segmentor, path) == [
        'Unused by the model and left out: backbone.norm.weight.'
    ]
    path = release(segmentor, path, **{'backbone.fpn2.0.bias': None})  # which the pyramid uses
    with pytest.raises(ValueError, match=r'fpn2.0.bias is missing in the file, \(128,\) in the'):
        load_released(segmentor, path)


def test_other_backbone_classes_or_kinds_of_files_are_refused(tmp_path):
    path = tmp_path / 'x.pth'
    eurosat = build(tiny('eurosat'))
    release(eurosat, path)
    with pytest.raises(ValueError, match='x.pth is of another backbone than the model'):
        load_released(build(tiny('eurosat', 'internimage_xl')), path)
    with pytest.raises(ValueError, match='tells 10 classes apart, the data set has 45'):
        load_released(build(tiny('resisc45')), path)
    torch.save(dict(state_dict=eurosat.backbone.state_dict()), path)
    with pytest.raises(ValueError, match='holds no finetuned model'):
        load_released(eurosat, path)
    release(build(tiny('dior_r')), path)
    with pytest.raises(ValueError, match='tells 20 classes apart, the data set has 15'):
        load_released(build(tiny('dota_v1')), path)
    release(build(tiny('dior')), path)
    with pytest.raises(ValueError, match='2 of another shape: roi_head.bbox_head.fc_reg.weight'):
        model = build(tiny('dior'))
        model.roi_head.bbox_head.fc_reg = torch.nn.Linear(64, 4)
        load_released(model, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match='truncated'):
        load_released(eurosat, path)


# ------------------------------------------------------------------------------------ the tool


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Function of a data set: its prepared small copy, and its tiny model's released file."""

    def make(dataset: str) -> list[str]:
        prepare(dataset, DATASETS[dataset].synthesise(tmp_path / 'source'), tmp_path / 'data')
        cfg = tiny(dataset)
        release(build(cfg), tmp_path / 'released.pth')
        cfg.dump(tmp_path / 'tiny.py')
        monkeypatch.setattr(table, 'config_of', lambda *_: tmp_path / 'tiny.py')
        return [
            dataset,
            'vit_b_rvsa',
            '--checkpoint',
            str(tmp_path / 'released.pth'),
            '--data',
            str(tmp_path / 'data'),
            '--work-dir',
            str(tmp_path / 'work'),
            '--cfg-options',
            f'experiment_name=reproduce_{dataset}',
        ]

    return make


def test_measured_beside_published(prepared, monkeypatch, tmp_path, capsys):
    run_tool(monkeypatch, 'reproduce', *prepared('svcd'))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    measured = json.loads((tmp_path / 'work' / 'metrics.json').read_text())
    (row,) = (line for line in lines if line[:3] == ['F1', 'of', 'changed'])
    f1 = measured['changed/F1']
    assert row[3:] == [f'{f1:.2f}', '97.87', f'{f1 - 97.87:+.2f}']
    (recall,) = (line for line in lines if line[0:1] == ['changed/recall'])
    assert recall[-2] == '97.71'


def test_submission_for_a_server(prepared, monkeypatch, tmp_path, capsys):
    run_tool(monkeypatch, 'reproduce', *prepared('loveda'))
    assert (tmp_path / 'work' / 'submission' / 'loveda.zip').is_file()
    out = capsys.readouterr().out
    assert "The benchmark's server keeps the labels: send in the zip in" in out
    assert 'Published: 52.39 (mIoU of the server)' in out


def test_missing_data_is_told(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=f'no folder {tmp_path}/none: prepare the data set'):
        run_tool(
            monkeypatch,
            'reproduce',
            'levir',
            'vit_b_rvsa',
            '--checkpoint',
            'x.pth',
            '--data',
            str(tmp_path / 'none'),
        )
