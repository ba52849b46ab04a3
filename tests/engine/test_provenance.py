"""A run says what it was made from, and whoever loads its checkpoint what differs."""

import json
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mtp.engine import provenance
from mtp.files import UnusableFileError
from tests.engine.hooks.test_training import toy_runner
from tests.tools.toy import ToyDataset

NAMES = ('plane', 'ship', 'car')


class Images(BaseDataset):
    """Files of a folder that are no images, which nobody has to open."""

    METAINFO = dict(classes=NAMES)

    def load_data_list(self):
        return [
            dict(img_path=entry.path, gt_label=len(entry.name))
            for entry in sorted(os.scandir(self.ann_file), key=lambda entry: entry.name)
        ]


def files(folder, **contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_text(content)
    return Images(str(folder))


def told(cfg, dataset):
    return json.loads(json.dumps(provenance.of_training(cfg, dataset, True)))


def config(**changes):
    data = dict(dataset=dict(data_root='data/dior', ann_file='train.json'))
    return Config(dict(model=dict(backbone=dict(img_size=64)), train_dataloader=data, **changes))


def test_fingerprint_tells_names_sizes_and_nothing_of_where_the_data_are(tmp_path):
    here = told(config(), files(tmp_path / 'here/images', a='1', b='22'))
    there = told(config(), files(tmp_path / 'there/images', a='2', b='11'))
    assert here == there and here['data'][0]['images'] == 2 and here['data'][0]['bytes'] == 3
    for number, contents in enumerate((dict(a='1', b='1'), dict(a='1', c='22'), dict(a='1'))):
        other = told(config(), files(tmp_path / f'{number}/images', **contents))
        assert other['data'][0]['sha256'] != here['data'][0]['sha256']


@pytest.mark.parametrize(
    ('names', 'refused'),
    [
        (('plane', 'ship'), True),
        (('ship', 'plane', 'car'), True),
        (('aeroplane', 'ship', 'car'), False),
        (NAMES, None),
    ],
)
def test_classes_of_another_number_or_order_are_refused_other_names_are_told(names, refused):
    meta, now = dict(dataset_meta=dict(classes=names)), dict(classes={'': list(NAMES)})
    if refused:
        with pytest.raises(UnusableFileError, match='x.pth was trained for . classes'):
            provenance.differences(meta, config(), now, 'x.pth', goes_on=True)
    else:
        lines = provenance.differences(meta, config(), now, 'x.pth', goes_on=True)
        assert len(lines) == (refused is False)
    # other training may start from it
    assert len(provenance.differences(meta, config(), now, 'x.pth', goes_on=False)) == (
        names != NAMES
    )


def test_other_images_sizes_and_folders_are_told(tmp_path):
    saved = told(config(), files(tmp_path / 'a/images', a='1'))
    now = told(config(), files(tmp_path / 'b/images', a='1', b='2'))
    cfg = config()
    cfg.model.backbone.img_size = 96
    cfg.train_dataloader.dataset.data_root = 'data/xview'
    size, folder, data = provenance.differences(
        dict(provenance=saved), cfg, now, 'x.pth', goes_on=True
    )
    assert '64' in size and '96' in size
    assert 'dior train.json' in folder and 'xview train.json' in folder
    assert '2 images in 2 bytes; there were 1 in 1' in data
    hostile = dict(provenance=dict(data=[7], image_size={}, sources=3), dataset_meta=[])
    assert len(provenance.differences(hostile, cfg, now, 'x.pth', goes_on=True)) == 1


class OtherToys(ToyDataset):
    metainfo = {'datasets': {'sota': {'classes': ('ship', 'plane'), 'tasks': ()}}}


def test_each_start_is_written_down_and_a_checkpoint_of_other_classes_is_refused(tmp_path):
    runner = toy_runner(tmp_path / 'run')
    runner.train()
    checkpoint = (tmp_path / 'run' / 'last_checkpoint').read_text()
    meta = torch.load(checkpoint, weights_only=False)['meta']
    assert meta['provenance']['data'][0]['images'] == len(ToyDataset())
    go_on = dict(resume=True, load_from=checkpoint)
    toy_runner(tmp_path / 'run', **go_on).train()
    first, second = json.loads((tmp_path / 'run' / 'provenance.json').read_text())
    assert first['versions']['torch'] and first['hardware']['cores'] and first['processes'] == 1
    assert (first['iteration'], second['iteration']) == (0, 6)
    assert second['start'] == dict(path=checkpoint, resumed=True)
    other = {'train_dataloader.dataset.type': OtherToys}
    with pytest.raises(UnusableFileError, match='sota: its predictions would get'):
        toy_runner(tmp_path / 'other', **go_on, **other).train()
    tested = {'test_dataloader.dataset.type': OtherToys, 'load_from': checkpoint}
    with pytest.raises(UnusableFileError, match='2 classes .plane, ship., not 2 classes .ship'):
        toy_runner(tmp_path / 'tested', **tested).test()
