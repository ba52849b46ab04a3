"""The rules that all readers share: names of classes, boxes that are left out, counts."""

import numpy as np
import pytest

from mtp.data.box_rules import NO_AREA, OUTSIDE, check_order, find_unusable
from mtp.data.class_names import ClassNames, check_classes
from mtp.data.tally import Tally
from mtp.files import UnusableFileError


@pytest.mark.parametrize(
    'classes, said',
    [
        ('plane', "classes=('plane',) with a comma"),
        ((), 'at least one name'),
        (('plane', ' '), 'none empty'),
        (('plane', 'car', 'Plane'), "'plane' and 'Plane'"),
        (('plane', 3), 'a tuple of names'),
    ],
)
def test_class_names_of_a_config_are_a_sequence_of_different_names(classes, said):
    with pytest.raises(ValueError, match=said.replace('(', r'\(').replace(')', r'\)')):
        check_classes(classes)


def test_a_name_in_another_case_is_the_class_and_noted_once():
    tally = Tally()
    names = ClassNames(('small-vehicle', 'ship'), tally)
    assert [names.label(name, 'a.txt, line 1') for name in ('ship', 'Small Vehicle')] == [1, 0]
    assert names.label('Small Vehicle', 'b.txt, line 1') == 0
    assert tally.notes == ["'Small Vehicle' is read as the class 'small-vehicle'"]


def test_an_unknown_class_is_named_with_file_line_and_suggestion():
    with pytest.raises(
        UnusableFileError, match=r"a.txt, line 3: 'shipp' is no class \(did you mean"
    ):
        ClassNames(('plane', 'ship'), Tally()).label('shipp', 'a.txt, line 3')


FLAT = {
    'four equal corners': [(70, 70)] * 4,
    'a line': [(70, 70), (80, 70), (90, 70), (100, 70)],
    'a diagonal': [(9070, 9070), (9080, 9080), (9090, 9090), (9100, 9100)],
    'there and back': [(70, 70), (80, 75), (70, 70), (80, 75)],
    'digits behind the comma': [(70.01, 70.02), (70.03, 70.01), (70.02, 70.04), (70.01, 70.03)],
}


@pytest.mark.parametrize('corners', FLAT.values(), ids=FLAT)
def test_a_rotated_box_without_area_is_left_out(corners):
    assert find_unusable(np.array([corners]), None, rotated=True) == [NO_AREA]


def test_boxes_outside_are_left_out_and_those_partly_outside_are_used():
    boxes = np.array(
        [
            [(-5, -5), (1, -5), (1, 1), (-5, 1)],
            [(-5, 10), (0, 10), (0, 20), (-5, 20)],
            [(64, 10), (70, 10), (70, 20), (64, 20)],
            [(10, 10), (10.5, 10), (10.5, 20), (10, 20)],
        ]
    )
    assert find_unusable(boxes, (48, 64), rotated=False) == [None, OUTSIDE, OUTSIDE, NO_AREA]
    assert find_unusable(boxes, (48, 64), rotated=True) == [None, OUTSIDE, OUTSIDE, None]


def test_exchanged_corners_have_no_one_meaning():
    assert check_order((10, 10), (20, 30)) is None
    assert 'exchange them' in check_order((150, 20), (100, 50))


def test_a_summary_counts_what_is_left_out_and_why():
    tally = Tally(images=520, objects=3651)
    assert tally.summary() == 'images 520, objects 3,651'
    tally.leave_out(NO_AREA, 'a.txt, line 4')
    assert tally.summary().endswith('3,651, left out 1: objects without area')
    tally.leave_out(OUTSIDE, 'b.txt, line 1')
    total = Tally()
    total.add(tally)
    total.add(Tally(images=1, objects=2))
    assert total.summary() == (
        'images 521, objects 3,653, left out 2: 1 objects without area, '
        '1 objects outside of their image'
    )
    assert list(total.lines())[0] == 'a.txt, line 4: left out, as all objects without area'
