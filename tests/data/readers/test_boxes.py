"""Detection data sets: what is refused, and that it is said where."""

import json
from pathlib import Path

import pytest

from mtp.data import DIORDetection, DOTATiles
from mtp.data.datasets import DATASETS


def tiles(root: Path, text: str) -> DOTATiles:
    (root / 'annfiles').mkdir()
    (root / 'annfiles' / 'b.txt').write_text(text)
    (root / 'annfiles' / 'a.txt').write_text('')
    return DOTATiles(
        'dota_v1', data_root=str(root), ann_file='annfiles', data_prefix=dict(img_path='images')
    )


def test_tiles_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    dataset = tiles(tmp_path, '0 0 9 0 9 5 0 5 ship 1\n1 1 2 1 2 2 1 2 helicopter 0\n')
    assert [dataset.get_data_info(i)['img_id'] for i in range(2)] == ['a', 'b']
    classes = DATASETS['dota_v1'].classes
    assert [classes[i['bbox_label']] for i in dataset.get_data_info(1)['instances']] == [
        'ship',
        'helicopter',
    ]


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('0 0 9 0 9 5 0 5 boat 1', r"line 2: .*'0 0 9 0 9 5 0 5 boat 1'; classes are plane"),
        ('0 0 9 0 9 5 0', 'line 2: expected eight coordinates'),
        ('0 0 9 0 9 5 0 x ship 1', 'line 2: .* are not all numbers'),
    ],
    ids=['class', 'short', 'number'],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf'b\.txt, {message}'):
        tiles(tmp_path, f'0 0 9 0 9 5 0 5 ship 1\n{line}\n')


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='tools/data/prepare.py'):
        DOTATiles('dota_v1', data_root=str(tmp_path), data_prefix=dict(img_path='test/images'))
    with pytest.raises(FileNotFoundError, match='tools/data/prepare.py'):
        DIORDetection(data_root=str(tmp_path), ann_file='none.json')


def test_other_categories_are_refused(tmp_path: Path) -> None:
    names = [*DATASETS['dior'].classes[:-1], 'zeppelin']
    coco = dict(
        images=[dict(id=0, file_name='a.jpg', width=8, height=8)],
        annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate(names)],
    )
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"a\.json: categories \['zeppelin'\].*'windmill'"):
        DIORDetection(data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img=''))
