"""Parsers of box labels: each format gives the same boxes, and names the line of a fault."""

import re
from pathlib import Path

import numpy as np
import pytest

from mtp.data.formats import FORMATS
from mtp.data.formats.object_xml import CORNER_TAGS, read_objects
from mtp.data.formats.yolo_text import find_names, name_classes
from mtp.files import UnusableFileError

SIZE = 256, 512
CORNERS = [(10.125, 20.5), (100.25, 30.0), (90.375, 60.0), (5.5, 50.625)]
BOX = [(10.125, 20.5), (100.25, 20.5), (100.25, 60.0), (10.125, 60.0)]


def shares(points: list[tuple[float, float]]) -> str:
    return ' '.join(f'{x / SIZE[1]:.17g} {y / SIZE[0]:.17g}' for x, y in points)


def xml(*objects: str, size: tuple[int, int] = SIZE) -> str:
    return (
        f'<annotation>\n<size><width>{size[1]}</width><height>{size[0]}</height></size>\n'
        + ''.join(f'<object>{text}</object>\n' for text in objects)
        + '</annotation>'
    )


def voc(x1: object, y1: object, x2: object, y2: object) -> str:
    sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), (x1, y1, x2, y2))
    return f'<name>ship</name><bndbox>{"".join(f"<{s}>{v}</{s}>" for s, v in sides)}</bndbox>'


FLAT = [value for point in CORNERS for value in point]
TEXTS = {
    'dota': f'{" ".join(map(str, FLAT))} ship 1',
    'yolo': f'1 {55.1875 / 512:.17g} {40.25 / 256:.17g} {90.125 / 512:.17g} {39.5 / 256:.17g}',
    'yolo_obb': f'1 {shares(CORNERS)}',
    'voc': xml(voc(10.125, 20.5, 100.25, 60.0)),
    'dior_r': xml(
        '<name>ship</name><robndbox>'
        + ''.join(f'<{tag}>{value}</{tag}>' for tag, value in zip(CORNER_TAGS, FLAT))
        + '</robndbox>'
    ),
    'fair1m': xml(
        '<possibleresult><name>ship</name></possibleresult><points>'
        + ''.join(f'<point>{x},{y}</point>' for x, y in [*CORNERS, CORNERS[0]])
        + '</points>'
    ),
}


def write(folder: Path, name: str, text: str, encoding: str = 'utf-8') -> Path:
    path = folder / f'a{FORMATS[name].suffix}'
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize('name', FORMATS)
def test_each_format_gives_the_corners_to_the_last_digit(name: str, tmp_path: Path) -> None:
    (box,) = FORMATS[name].read(write(tmp_path, name, TEXTS[name]), SIZE)
    assert box.corners.tolist() == np.array(CORNERS if FORMATS[name].rotated else BOX).tolist()
    assert box.name == ('1' if FORMATS[name].numbered else 'ship')


@pytest.mark.parametrize('name', ['dota', 'yolo', 'yolo_obb'])
def test_text_has_byte_order_mark_crlf_tabs_and_blank_lines(name: str, tmp_path: Path) -> None:
    line = TEXTS[name].replace(' ', '\t')
    path = write(tmp_path, name, f'\ufeff{line}\r\n\r\n  {line}\r\n')
    assert [box.place for box in FORMATS[name].read(path, SIZE)] == [
        f'{path}, line {number}' for number in (1, 3)
    ]


def test_header_difficulty_and_spaces_of_dota(tmp_path: Path) -> None:
    corners = '0 0 4 0 4 2 0 2'
    path = write(
        tmp_path,
        'dota',
        f'imagesource:GoogleEarth\ngsd:null\n{corners} small vehicle 2\n{corners} ship\n',
    )
    assert [(box.name, box.difficulty) for box in FORMATS['dota'].read(path, SIZE)] == [
        ('small vehicle', 2),
        ('ship', 0),
    ]
    assert not list(FORMATS['dota'].read(write(tmp_path, 'dota', ''), SIZE))


def test_a_polygon_of_yolo_gives_the_box_around_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'yolo', f'0 {shares(CORNERS)}')
    (box,) = FORMATS['yolo'].read(path, SIZE)
    assert box.corners[[0, 2]].tolist() == [[5.5, 20.5], [100.25, 60.0]]


@pytest.mark.parametrize(
    ('encoding', 'declared'),
    [('gbk', 'GB2312'), ('utf-16', 'utf-16'), ('utf-8', 'utf-16'), ('utf-8-sig', 'UTF-8')],
)
def test_xml_in_other_encodings(encoding: str, declared: str, tmp_path: Path) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?>\n' + TEXTS['voc'].replace('ship', '\u8239')
    path = write(tmp_path, 'voc', text, encoding)
    (box,) = FORMATS['voc'].read(path, SIZE)
    assert (box.name, box.place) == ('\u8239', f'{path}, line 4')


def test_an_object_in_a_comment_is_none(tmp_path: Path) -> None:
    commented = f'<!-- <object>{voc(1, 1, 2, 2)}</object>\n -->'
    path = write(tmp_path, 'voc', TEXTS['voc'].replace('<size>', f'{commented}<size>'))
    ((place, _),) = read_objects(path)[1]
    assert place == f'{path}, line 4'


BAD = {
    'dota': [
        ('0 0 9 0 9 5 0', 'is not of the form "x1 y1'),
        ('0 0 9 0 9 5 0 5 ship 0.5', 'is not of the form'),
        ('0 0 9 0 9 5 0 x ship 1', 'are not all numbers'),
    ],
    'yolo': [
        ('ship 0.1 0.1 0.1 0.1', "begins with 'ship'"),
        ('0 12 14 30 20', 'not pixels'),
        ('0 0.1 0.1 -0.1 0.1', 'width and height are -0.1'),
        ('0 0.1 0.1 0.1 0.1 0.9', 'has 5 numbers after the class'),
        ('0 0.1 0.1 nan 0.1', 'not all finite'),
    ],
    'yolo_obb': [('0 0.1 0.1 0.1 0.1', 'format="yolo"')],
    'voc': [
        (xml(voc(150, 20, 100, 50)), r'second corner \(100, 50\) is left of or above'),
        (xml('<name>ship</name>'), 'no bndbox/xmin'),
        (xml('<bndbox/>'), 'no bndbox/xmin'),
        (xml(voc(1, 2, 3, 4), size=(512, 256)), r'of height and width \(512, 256\)'),
        ('<a><object>', 'no whole xml'),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "unknown encoding 'nonsense'"),
    ],
}


@pytest.mark.parametrize(
    ('name', 'text', 'said'), [(name, *case) for name, cases in BAD.items() for case in cases]
)
def test_a_fault_is_named_with_file_and_line(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(UnusableFileError, match=f'^{re.escape(str(path))}.*{said}'):
        list(FORMATS[name].read(path, SIZE))


def test_text_that_is_no_utf_8_is_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'dota', f'{TEXTS["dota"]}\n0 0 4 0 4 2 0 2 caf\xe9', 'latin-1')
    with pytest.raises(UnusableFileError, match=r'a\.txt, line 2: the byte 0xe9'):
        list(FORMATS['dota'].read(path, SIZE))


@pytest.mark.parametrize('text', ['names: [car, ship]', 'names: {0: car, 1: ship}', None])
def test_names_of_indices(text: str | None, tmp_path: Path) -> None:
    assert find_names([tmp_path]) is None
    if text is None:
        (tmp_path / 'classes.txt').write_text('car\r\nship\r\n')
    else:
        (tmp_path / 'data.yaml').write_text(text)
    path, names = find_names([tmp_path, tmp_path])
    assert path.parent == tmp_path and names == ('car', 'ship')
    boxes = FORMATS['yolo'].read(write(tmp_path, 'yolo', f'{TEXTS["yolo"]}\n2 0 0 1 1'), SIZE)
    named = name_classes(boxes, names)
    assert next(named).name == 'ship'
    with pytest.raises(UnusableFileError, match='line 2: there is no class 2; the 2 classes'):
        next(named)
    (tmp_path / 'obj.names').write_text('ship\ncar')
    with pytest.raises(UnusableFileError, match='name the classes differently'):
        find_names([tmp_path])


def refuse(name: str, text: str, tmp_path: Path) -> str:
    path = write(tmp_path, name, text)
    with pytest.raises(UnusableFileError) as error:
        list(FORMATS[name].read(path, SIZE))
    return str(error.value)


@pytest.mark.parametrize(
    'line',
    [
        '0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.3 0.3 2',
        '0 0.5 0.5 0.2 0.2 0.45 0.45 1 0 0 0',
        '0 0.5 0.5 0.2 0.2 0.45 0.45 2',
    ],
)
def test_a_pose_is_not_taken_for_a_polygon(line: str, tmp_path: Path) -> None:
    text = refuse('yolo', f'0 0.5 0.5 0.2 0.2\n{line}', tmp_path)
    assert 'line 2: it reads as "cx cy width height" with keypoints' in text
    assert 'numbers outside 0 to 1' in refuse('yolo', '0 0.1 0.1 0.2 0.2 0.1 1.9', tmp_path)
    # at a corner of the image, and a pose with one corner more: these are polygons
    for text in ('0 0.3 0 0.3 0.2 0.1 0.3 0 0.3 0 0', '0 .5 .5 .2 .2 .45 .45 1 0 0 0 .5 .5'):
        (box,) = FORMATS['yolo'].read(write(tmp_path, 'yolo', text), SIZE)
        assert box.corners.min() == 0


def test_a_number_at_the_end_of_a_class_of_dota_is_no_difficulty(tmp_path: Path) -> None:
    corners = '8 8 40 8 40 24 8 24'
    path = write(tmp_path, 'dota', f'{corners} Boeing 747\n{corners} Boeing 737\n{corners} ship')
    found = [(box.name, box.difficulty) for box in FORMATS['dota'].read(path)]
    assert found == [('Boeing 747', 0), ('Boeing 737', 0), ('ship', 0)]
    path = write(tmp_path, 'dota', f'{corners} Boeing 747 2\n{corners} ship 0')
    found = [(box.name, box.difficulty) for box in FORMATS['dota'].read(path)]
    assert found == [('Boeing 747', 2), ('ship', 0)]
    for lines, number in ((('ship 1', 'ship 3'), 2), (('ship 3', 'ship 1'), 1)):
        text = refuse('dota', '\n'.join(f'{corners} {end}' for end in lines), tmp_path)
        assert f'line {number}: it ends with a number that is no difficulty, 0 to 2' in text


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('car\n\nplane\nship\n', 'line 2: it is blank'),
        ('\ncar\n', 'line 1: it is blank'),
        ('0: car\n2: plane\n', "line 2: '2: plane' has the index 2, not 1"),
        ('0: car\n1: plane\n\n', None),
        ('car\nplane\n\n', None),
    ],
)
def test_names_count_by_their_lines(text: str, said: str | None, tmp_path: Path) -> None:
    path = tmp_path / 'classes.txt'
    path.write_text(text)
    if said is None:
        assert find_names([tmp_path]) == (path, ('car', 'plane'))
        return
    with pytest.raises(UnusableFileError, match=said):
        find_names([tmp_path])


def test_xml_with_what_would_be_dropped_is_refused(tmp_path: Path) -> None:
    box = re.search('<bndbox>.*</bndbox>', voc(1, 2, 3, 4))
    assert box is not None
    text = refuse('voc', xml(voc(1, 2, 3, 4), voc(1, 2, 3, 4) + box[0]), tmp_path)
    assert 'line 4: the object has bndbox/xmin 2 times' in text
    size = xml(voc(1, 2, 3, 4)).replace('>256<', '>255.0<')
    assert 'of height and width (255, 512)' in refuse('voc', size, tmp_path)
    points = ''.join(f'<point>{x},{y}</point>' for x, y in [*CORNERS, (7, 7)])
    name = '<possibleresult><name>ship</name></possibleresult>'
    text = refuse('fair1m', xml(f'{name}<points>{points}</points>'), tmp_path)
    assert 'line 3: the last of its 5 points, 7,7, is not equal to the first, 10.125,20.5' in text


@pytest.mark.parametrize('prefix', ['', 'v:'])
def test_xml_may_have_a_namespace(prefix: str, tmp_path: Path) -> None:
    text = re.sub('(</?)', rf'\g<1>{prefix}', xml(voc(1, 2, 3, 4)))
    declared = f'xmlns{":v" if prefix else ""}="http://example.org/voc"'
    text = text.replace('annotation>', f'annotation {declared}>', 1)
    path = write(tmp_path, 'voc', text)
    (box,) = FORMATS['voc'].read(path, SIZE)
    assert box.name == 'ship' and box.place == f'{path}, line 3'
