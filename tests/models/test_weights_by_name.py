"""The table of released weights, recorded keys, and the places that weights come from."""

import hashlib
import json
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from mtp.files import MissingFileError, UnusableFileError
from mtp.models import build_backbone
from mtp.models.weights.catalogue import CATALOGUE
from mtp.models.weights.layouts import compare, layout, matching
from mtp.models.weights.sources import download, resolve
from mtp.recipes import table

SIZES = {'vit_b_rvsa': 'b', 'vit_l_rvsa': 'l', 'internimage_xl': 'xl'}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A home and a working directory without any weights."""
    monkeypatch.setenv('MTP_HOME', str(tmp_path / 'home'))
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    return tmp_path


def names(shapes):
    return [weights.name for weights in matching(compare(shapes))]


def test_figures_are_those_of_the_recipes():
    results = table.read_results()
    for weights in filter(lambda each: each.dataset, CATALOGUE.values()):
        of_recipe = results[weights.dataset]
        published = of_recipe.published[weights.backbone]
        if weights.dataset == 'dior':  # the page and the logs differ from the paper
            published = of_recipe.logged['coco/bbox_mAP_50'][weights.backbone]
        assert weights.figure.endswith(f' {published:.2f}'), weights.name


def test_recorded_keys_are_the_released_ones(shared):
    def read(name):
        return json.loads((shared / 'golden' / 'keys' / f'{name}.json').read_text())

    def shapes(keys):
        return {key: tuple(json.loads(text[text.index('[') :])) for key, text in keys.items()}

    backbones, heads = read('backbones'), read('finetune_heads')
    assert layout('mtp_vit_l_rvsa') == shapes(backbones['pretrain_vit_l_448']['keys'])
    assert layout('mtp_internimage_xl') == shapes(backbones['pretrain_internimage_xl']['keys'])
    other = {'spacenetv1': 'spacenet_v1', 'diorr': 'dior_r'}
    compared = 0
    for key, entry in heads.items():
        _, data, size = key.split('/')
        for backbone in (name for name in SIZES if SIZES[name] == size):
            name = f'{other.get(data, data)}_{backbone}'
            if name in CATALOGUE:
                found = layout(name)
                head = {k: v for k, v in found.items() if not k.startswith('backbone.')}
                assert head == shapes(entry['non_backbone_keys'])
                assert len(found) == entry['num_keys']
                compared += 1
    assert compared == 24


def test_a_file_is_recognised_by_its_keys_and_shapes():
    levir = layout('levir_vit_b_rvsa')
    # two classes and images of 256 pixels all the same
    assert names(levir) == [f'{data}_vit_b_rvsa' for data in ('whu', 'levir', 'svcd')]
    assert names(layout('dior_internimage_xl')) == ['dior_internimage_xl']
    encoder = layout('mtp_vit_l_rvsa')
    assert names(encoder) == ['mtp_vit_l_rvsa']
    whole = {f'encoder.{key}': shape for key, shape in encoder.items()}
    assert names({**whole, 'semsegdecoder.x': (1,)}) == ['mtp_vit_l_rvsa_multitask']
    mae = layout('mae_vit_b')
    assert names({**mae, 'decoder_pred.bias': (768,)}) == ['mae_vit_b', 'mae_millionaid_vit_b']

    del levir['decode_head.conv_seg.bias']
    levir.update({'backbone.pos_embed': (1, 196, 768), 'extra': (3,)})
    found = compare(levir)
    assert found.layout.endswith('_vit_b_rvsa') and not matching(found)
    assert found.missing == ['decode_head.conv_seg.bias'] and found.unexpected == ['extra']
    assert found.reshaped == {'backbone.pos_embed': ((1, 196, 768), (1, 256, 768))}


def test_download_checks_what_is_known(folders, monkeypatch):
    (folders / 'served').write_bytes(b'weights')
    right = hashlib.sha256(b'weights').hexdigest()
    url = (folders / 'served').as_uri()
    weights = replace(CATALOGUE['mae_vit_b'], url=url, md5_start=None, sha256=right, size=7)
    for wrong in (dict(sha256='0' * 64), dict(md5_start='0'), dict(size=8)):
        with pytest.raises(UnusableFileError, match='is not the file of mae_vit_b: its'):
            download(replace(weights, **wrong))
        assert not any((folders / 'home').glob('*'))
    path = download(weights)
    assert path == folders / 'home' / 'mae_pretrain_vit_base.pth'
    assert path.read_bytes() == b'weights'
    assert resolve('mae_vit_b') == path
    with pytest.raises(UnusableFileError, match='cannot be downloaded .*get mae_pretrain_vit_l'):
        download(replace(CATALOGUE['mae_vit_l'], url=f'{url}.gone'))
    with pytest.raises(UnusableFileError, match='get the model levir_vit_b_rvsa from https://'):
        download(CATALOGUE['levir_vit_b_rvsa'])


def test_files_folders_and_names_resolve_alike(folders):
    file = folders / 'a.pth'
    file.touch()
    assert resolve(file) == resolve(str(file)) == file
    given = folders / 'given'
    given.mkdir()
    (given / 'x.pth').touch()
    (given / 'run.py').touch()
    assert resolve(given) == given / 'x.pth'
    (given / 'y.pth').touch()
    with pytest.raises(UnusableFileError, match='2 files of .*: name one of x.pth, y.pth'):
        resolve(given)
    (given / 'model.safetensors').touch()
    assert resolve(given) == given / 'model.safetensors'
    with pytest.raises(MissingFileError, match='get the file last_vit_l_rvsa.* and put it at'):
        resolve('mtp_vit_l_rvsa')
    with pytest.raises(MissingFileError, match='no weights at mtp_vit: give a file'):
        resolve('mtp_vit')


def test_the_hub_gives_files_of_weights_alone(folders, monkeypatch):
    files = {'me/one': ['README.md', 'best.pth'], 'me/two': ['b.pth', 'model.safetensors', 'x.bin']}
    asked = []

    def fetch(repository, file, cache_dir):
        if file not in files[repository]:
            raise EntryNotFoundError(f'404: no {file}')
        asked.append(f'{repository}/{file}')
        path = cache_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(build_backbone('vit_tiny_rvsa').state_dict(), path)
        return str(path)

    monkeypatch.setattr(huggingface_hub, 'list_repo_files', lambda name: files[name])
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', fetch)
    for source in ('hf://me/one', 'hf://me/two', 'hf://me/two/b.pth'):
        assert resolve(source).parent == folders / 'home' / 'hub'
    assert asked == ['me/one/best.pth', 'me/two/model.safetensors', 'me/two/b.pth']
    build_backbone('vit_tiny_rvsa', pretrained='hf://me/one')
    for source, message in (
        ('hf://me', 'expected hf://owner/name'),
        ('hf://me/two/x.bin', 'expected a file of .safetensors or .pth'),
        ('hf://me/two/c.pth', 'cannot be had from the Hugging Face hub .404: no c.pth'),
    ):
        with pytest.raises(UnusableFileError, match=message):
            resolve(source)

    def offline(*args):
        raise LocalEntryNotFoundError('no network')

    monkeypatch.setattr(huggingface_hub, 'list_repo_files', offline)
    with pytest.raises(UnusableFileError, match='no network'):
        resolve('hf://me/one')
    kept = folders / 'home/hub/models--me--one'
    (kept / 'refs').mkdir(parents=True)
    (kept / 'refs' / 'main').write_text('abc')
    (kept / 'snapshots' / 'abc').mkdir(parents=True)
    (kept / 'snapshots' / 'abc' / 'model.safetensors').touch()
    assert resolve('hf://me/one') == kept / 'snapshots' / 'abc' / 'model.safetensors'
