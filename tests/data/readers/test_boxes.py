"""Detection data sets: what is refused, and that it is said where."""

import json
from pathlib import Path

import pytest

from mtp.data import DIORDetection
from mtp.data.datasets import DATASETS


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='mtp data prepare'):
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
