"""Detections of tiles put together, and the files that the servers take."""

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from mtp.evaluation import DOTASubmission, FAIR1MSubmission
from mtp.evaluation.tiles import merge_tiles


def found(*rows: tuple[float, ...]) -> tuple[torch.Tensor, ...]:
    """Rows (cx, cy, w, h, theta, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
    return table[:, :5], table[:, 5], table[:, 6].long()


def test_doubles_of_a_class_go_and_offsets_come_back() -> None:
    tiles = {
        'P1__1024__0___0': found((900, 100, 40, 20, 0.3, 0.8, 0), (900, 100, 40, 20, 0.3, 0.7, 1)),
        'P1__1024__824___0': found((76, 100, 40, 20, 0.3, 0.9, 0)),  # the first one again
        'P1__512__824___-5': found((76, 305, 10, 20, 0.3, 0.6, 0)),  # from another scale
        'P__2__1024__0___0': found((5, 5, 4, 4, 0, 0.5, 0)),
        'whole': found(),
    }
    merged = merge_tiles(tiles)
    assert merged.keys() == {'P1', 'P__2', 'whole'}
    boxes, scores, labels = merged['P1']
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.6]))
    assert labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(
        boxes[:, :2], torch.tensor([[900.0, 100.0], [900.0, 100.0], [900.0, 300.0]])
    )
    assert len(merged['whole'][0]) == 0


def sample(name: str, detections: tuple[torch.Tensor, ...]) -> dict:
    boxes, scores, labels = detections
    return dict(
        img_path=f'data/test/images/{name}.png',
        pred_instances=dict(bboxes=boxes, scores=scores, labels=labels),
    )


def submit(metric, samples: list[dict], classes: tuple[str, ...]) -> Path:
    metric.dataset_meta = dict(classes=classes)
    metric.process(None, samples)
    metric.evaluate(len(samples))
    return metric.out_dir / f'{metric.name}.zip'


# DOTA's evaluation server reads the lines of a class as: image, score, four corners.
_DOTA_LINE = re.compile(r'\S+ [01]\.\d+( -?\d+\.\d+){8}')


def test_dota_zip_has_a_file_per_class(tmp_path: Path) -> None:
    path = submit(
        DOTASubmission(out_dir=str(tmp_path / 'new')),
        [
            sample('P1__1024__0___0', found((50, 60, 20, 10, 0, 0.5, 0))),
            sample('P1__1024__824___0', found((50, 60, 20, 10, 0, 0.25, 0))),
        ],
        ('plane', 'ship'),
    )
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ['Task1_plane.txt', 'Task1_ship.txt']
        lines = archive.read('Task1_plane.txt').decode().splitlines()
        assert archive.read('Task1_ship.txt') == b''
    assert all(_DOTA_LINE.fullmatch(line) for line in lines)
    numbers = [float(value) for value in lines[1].split()[1:]]
    assert numbers[0] == 0.25
    assert {(x, y) for x, y in zip(numbers[1::2], numbers[2::2])} == {
        (864.0, 55.0),
        (884.0, 55.0),
        (884.0, 65.0),
        (864.0, 65.0),
    }


def test_fair1m_xml_has_the_form_of_the_labels(tmp_path: Path, shared: Path) -> None:
    path = submit(
        FAIR1MSubmission(out_dir=str(tmp_path)),
        [
            sample('7__800__0___600', found((50, 60, 20, 10, 0, 0.5, 0), (5, 6, 8, 7, 0, 0.4, 1))),
            sample('8__800__0___0', found()),
        ],
        ('Small-Car', 'other-ship'),
    )
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ['test/7.xml', 'test/8.xml']
        root = ElementTree.fromstring(archive.read('test/7.xml'))
        assert not ElementTree.fromstring(archive.read('test/8.xml')).findall('objects/object')
    assert [name.text for name in root.iter('name')] == ['Small Car', 'other-ship']
    label = ElementTree.parse(next((shared / 'data' / 'fair1m_labels').rglob('*.xml'))).getroot()
    (owners,) = label.findall('objects/object')[:1]
    ours, *_ = root.findall('objects/object')
    assert [child.tag for child in ours] == [child.tag for child in owners]
    points = [tuple(map(float, point.text.split(','))) for point in ours.iter('point')]
    assert len(points) == len(list(owners.iter('point'))) == 5 and points[0] == points[-1]
    assert set(points) == {(40.0, 655.0), (60.0, 655.0), (60.0, 665.0), (40.0, 665.0)}


def test_horizontal_boxes_are_refused(tmp_path: Path) -> None:
    bad = sample('a', (HorizontalBoxes(torch.zeros(1, 4)), torch.ones(1), torch.zeros(1)))
    with pytest.raises(ValueError, match=r'\(N, 5\)'):
        submit(DOTASubmission(out_dir=str(tmp_path)), [bad], ('plane',))
