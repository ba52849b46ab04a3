"""The packed form: the same samples, and what is wrong with a folder."""

import pytest

from mtp.cli.main import main
from mtp.data import LoadCrop, MultiTaskDataset, PackedDataset, PackLabels, SAMRSDataset, packed
from mtp.data.packed import pack
from tests.data.small import CLASSES, make_subset
from tests.data.test_crops import assert_equal

PIPELINE = [dict(type=LoadCrop, size=64), dict(type=PackLabels)]


def source(root, **kwargs):
    return SAMRSDataset('sota', root, classes=CLASSES, name='mine', **kwargs)


def test_gives_the_same_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, 'SHARD_BYTES', 60000)
    root = make_subset(tmp_path / 'a', sizes=((128, 128), (96, 120), (131, 77)))
    report = pack(source(root), tmp_path / 'b', workers=1)
    assert report.images == 3 and not report.bad
    assert len(list((tmp_path / 'b').glob('*.bin'))) == 2
    dataset = PackedDataset(tmp_path / 'b', pipeline=PIPELINE)
    assert dataset.metainfo == source(root).metainfo
    ours, theirs = MultiTaskDataset([dataset]), MultiTaskDataset([source(root, pipeline=PIPELINE)])
    for seed in range(24):
        found, expected = ours[seed % 3, seed], theirs[seed % 3, seed]
        found['data_samples'].set_metainfo(dict(img_path=expected['data_samples'].img_path))
        assert_equal(found, expected)
        assert (found['inputs'] == expected['inputs']).all()


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, 'SHARD_BYTES', 1)
    root = make_subset(tmp_path / 'a')
    first = root / 'trainval/images/train_0.png'
    pack(source(root), tmp_path / 'b', workers=1)
    (tmp_path / 'b' / 'pack.json').unlink()
    with pytest.raises(FileNotFoundError, match='interrupted'):
        PackedDataset(tmp_path / 'b')
    (tmp_path / 'b' / 'shard_00001.npy').unlink()
    first.unlink()  # its shard is whole: it is not read again
    assert pack(source(root), tmp_path / 'b', workers=1).images == 3
    assert len(PackedDataset(tmp_path / 'b')) == 3
    monkeypatch.undo()
    with pytest.raises(ValueError, match='from other files or with other settings'):
        pack(source(root), tmp_path / 'b', workers=1)


def test_damage_is_named(tmp_path):
    root = make_subset(tmp_path / 'a')
    pack(source(root), tmp_path / 'b', workers=1)
    shard = tmp_path / 'b' / 'shard_00000.bin'
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match='shard_00000.bin has .* cut short'):
        PackedDataset(tmp_path / 'b')


def test_values_that_packing_never_writes_are_refused(tmp_path):
    pack(source(make_subset(tmp_path / 'a', sizes=((128, 128),))), tmp_path / 'b', workers=1)
    shard, index = tmp_path / 'b' / 'shard_00000.bin', tmp_path / 'b' / 'index'
    (index / 'digests.json').unlink()  # as in packs of release 0.1
    files = {
        path: path.read_bytes() for path in (shard, index / 'labels.npy', index / 'counts.npy')
    }
    first = 128 * 128 * 3  # byte of the first run: row, first column, column after the last, label
    for path, place, value, expected in [
        (shard, first, 130, 'shard_00000.bin is damaged .*128 x 128 pixels'),
        (shard, first + 4, 255, 'shard_00000.bin is damaged .*128 x 128 pixels'),
        (shard, first + 6, 4, 'shard_00000.bin is damaged .*no label map of 3 classes'),
        (index / 'labels.npy', -8, 3, r'index is damaged .*labels of 0 to 3, but 3 classes'),
        (index / 'counts.npy', -1, 255, r'index is damaged .*mask 3 of train_0.png'),
    ]:
        data = bytearray(files[path])
        data[place] = value
        path.write_bytes(data)
        with pytest.raises(ValueError, match=expected):
            PackedDataset(tmp_path / 'b').get_data_info(0)
        path.write_bytes(files[path])
    assert PackedDataset(tmp_path / 'b').get_data_info(0)['height'] == 128


def test_the_command_names_what_it_left_out(tmp_path, capsys):
    root = make_subset(tmp_path / 'a')
    (root / 'trainval/images/train_1.png').write_bytes(b'no image')
    folders = [str(root), str(tmp_path / 'b')]
    options = ['--subset', 'sota', '--workers', '1', '--classes', *CLASSES]
    for reason in ('no readable image', 'left out by an earlier run'):
        with pytest.raises(SystemExit) as stop:
            main(['data', 'pack', *folders, *options])
        printed = capsys.readouterr()
        assert stop.value.code == 1 and '2 of 3 images' in printed.out
        assert 'train_1.png' in printed.err and reason in printed.err
    dataset = PackedDataset(tmp_path / 'b', pipeline=PIPELINE)
    assert [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))] == [
        'train_0.png',
        'train_2.png',
    ]


def test_a_header_that_numpy_cannot_parse_is_damage(tmp_path):
    pack(source(make_subset(tmp_path / 'a')), tmp_path / 'b', workers=1)
    places = tmp_path / 'b' / 'places.npy'
    data = places.read_bytes()
    for header in (b'{\0', b'{('):  # SyntaxError and TokenError
        places.write_bytes(data[:10] + header + data[10 + len(header) :])
        with pytest.raises(ValueError, match=r'^[^\n]*places\.npy is damaged[^\n]*$'):
            PackedDataset(tmp_path / 'b')
