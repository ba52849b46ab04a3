"""Curves, confusion, calibration and ranking against the same, computed in another way."""

import cv2
import numpy as np
import pytest

from mtp.evaluation.report import Extremes, figures_of
from mtp.evaluation.report.matching import ImageObjects
from mtp.evaluation.report.parts import LabelMaps, SceneAnswer

CLASSES = ('plane', 'ship', 'harbor')


def random_image(rng, sides):
    """True boxes that do not overlap each other; predictions near them and anywhere."""
    cells = rng.permutation(16)[: rng.integers(0, 6)]
    low = np.stack([cells % 4, cells // 4], 1) * 30.0
    shape = rng.uniform(15, 25, (len(cells), 2))
    true = np.concatenate([low, low + shape], 1)
    if sides == 5:
        true = np.concatenate([low + 15, shape, rng.uniform(-0.5, 0.5, (len(cells), 1))], 1)
    near = rng.integers(0, max(len(true), 1), 8 if len(true) else 0)
    moved = true[near] + rng.normal(0, 1, (len(near), sides)) * ([3] * 4 + [0.1])[:sides]
    labels = rng.integers(0, 3, len(true))
    found_labels = np.where(rng.random(len(near)) < 0.7, labels[near], rng.integers(0, 3))
    return ImageObjects(
        moved.astype('f4').reshape(-1, sides),
        rng.random(len(near)).astype('f4'),
        found_labels.astype(int),
        true.astype('f4').reshape(-1, sides),
        labels,
        rng.random(len(true)) < 0.2,
    )


def overlap(box, other, of_first=False):
    """IoU of two boxes by OpenCV, which clips polygons."""
    rectangles = []
    for one in (box, other):
        if len(one) == 4:
            one = (*(one[:2] + one[2:]) / 2, *(one[2:] - one[:2]), 0)
        rectangles.append(((one[0], one[1]), (one[2], one[3]), np.degrees(one[4])))
    _, corners = cv2.rotatedRectangleIntersection(*rectangles)
    common = 0.0 if corners is None else cv2.contourArea(cv2.convexHull(corners))
    areas = [width * height for _, (width, height), _ in rectangles]
    return common / (areas[0] if of_first else sum(areas) - common)


def judge(image, threshold):
    """Return for predictions of at least a score: (true class or None, class, same class)."""
    order = sorted(range(len(image.scores)), key=lambda i: -image.scores[i])
    order = [i for i in order if image.scores[i] >= threshold]
    free = {j for j in range(len(image.true_boxes)) if not image.ignored[j]}
    answers, left = [], []
    for i in order:
        near = [
            (overlap(image.boxes[i], image.true_boxes[j]), j)
            for j in free
            if image.true_labels[j] == image.labels[i]
        ]
        if near and max(near)[0] >= 0.5:
            free.remove(max(near)[1])
            answers.append((image.labels[i], image.labels[i]))
        elif not any(
            overlap(image.boxes[i], image.true_boxes[j], image.boxes.shape[1] == 4) >= 0.5
            for j in np.flatnonzero(image.ignored & (image.true_labels == image.labels[i]))
        ):
            left.append(i)
    for i in left:
        near = [
            (overlap(image.boxes[i], image.true_boxes[j]), j)
            for j in free
            if image.true_labels[j] != image.labels[i]
        ]
        if near and max(near)[0] >= 0.5:
            free.remove(max(near)[1])
            answers.append((image.true_labels[max(near)[1]], image.labels[i]))
        else:
            answers.append((3, image.labels[i]))
    return answers, [(image.true_labels[j], 3) for j in free]


@pytest.mark.parametrize('sides', [4, 5])
def test_objects_are_those_of_a_plain_search(sides):
    rng = np.random.default_rng(0)
    images = [random_image(rng, sides) for _ in range(30)]
    figures = figures_of(images[0], CLASSES)
    verdicts = [figures.add(image) for image in images]
    result = figures.result()

    expected = np.zeros((4, 4), int)
    for image in images:
        for pair in sum(judge(image, 0.3), []):
            expected[pair] += 1
    assert expected[range(3), range(3)].all() and expected[3, :3].any() and expected[:3, 3].all()
    assert result.confusion.tolist() == expected.tolist()
    named = dict(result.tally())
    assert named['ship']['missed'] == expected[1, 3]
    assert named['ship']['invented'] == expected[3, 1]
    assert sum(v.text.count('missed') for v in verdicts) > 0

    assert [curve.name for curve in result.curves] == list(CLASSES)
    for label, curve in enumerate(result.curves):
        truth = sum(int((image.true_labels[~image.ignored] == label).sum()) for image in images)
        for place in range(0, len(curve.thresholds), 97):
            answers = [
                pair for image in images for pair in judge(image, curve.thresholds[place])[0]
            ]
            of_class = [true == found for true, found in answers if found == label]
            assert curve.recall[place] == pytest.approx(sum(of_class) / truth)
            assert curve.precision[place] == pytest.approx(np.mean(of_class))


def test_scores_of_scenes_and_pixels():
    rng = np.random.default_rng(0)
    scores, labels = rng.dirichlet((1, 1, 1), 500).astype('f4'), rng.integers(0, 3, 500)
    by_image = figures_of(SceneAnswer(scores[0], 0), CLASSES)
    for one, label in zip(scores, labels.tolist()):
        by_image.add(SceneAnswer(one, label))
    found = scores.argmax(1)
    maps = [part.reshape(20, 25) for part in (found, labels)]
    pixels = LabelMaps(*maps, scores.T.reshape(3, 20, 25))
    by_pixel = figures_of(pixels, CLASSES)
    by_pixel.add(pixels)

    best, right = scores.max(1).astype(float), found == labels
    bins = [(best * 10 // 1 == k) for k in range(10)]
    error = sum(abs(right[b].mean() - best[b].mean()) * b.mean() for b in bins if b.any())
    for result in (by_image.result(), by_pixel.result()):
        assert result.calibration.error == pytest.approx(error)
        for label, curve in enumerate(result.curves):
            true = labels == label
            for place in range(0, len(curve.thresholds), 50):
                chosen = scores[:, label] >= curve.thresholds[place]
                right = (chosen & true).sum()
                assert curve.recall[place] == pytest.approx(right / true.sum())
                assert curve.precision[place] == pytest.approx(right / chosen.sum())


def test_only_a_few_are_made_and_kept():
    made = []
    extremes = Extremes(2)
    qualities = np.random.default_rng(0).permutation(1000) / 999
    for quality in [float('nan'), *qualities]:
        extremes.offer(quality, 1, lambda q=quality: made.append(q) or q)
    assert extremes.best == [1, 998 / 999] and extremes.worst == [0, 1 / 999]
    assert len(made) < 60
    perfect = Extremes(2)
    for weight in (1, 3, 2):
        perfect.offer(1, weight, lambda w=weight: w)
    assert perfect.best == [3, 2] and perfect.worst == []
