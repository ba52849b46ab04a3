"""Figures of each kind of task, accumulated image by image in memory that does not grow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtp.evaluation.label_maps import backgrounds_of
from mtp.evaluation.report.matching import NOBODY, ImageObjects, Matches, match_objects
from mtp.evaluation.report.parts import LabelMaps, SceneAnswer
from mtp.evaluation.report.score_counts import Calibration, Curve, Reliability, ScoreCounts
from mtp.evaluation.tables import SHOWN_SCORE
from mtp.sample_fields import IGNORED


@dataclass(frozen=True)
class Verdict:
    """Judgement of an image.

    Attributes:
        quality: 0, nothing is right, to 1, nothing is wrong; nan if there is nothing to judge.
        weight: how much there is to see, by which images of equal quality are ranked.
        text: what is right and wrong, in words.
        matches: of objects, which prediction is which true one.
    """

    quality: float
    weight: float
    text: str
    matches: Matches | None = None


@dataclass(frozen=True)
class TaskFigures:
    """Figures of a task of a data set.

    Attributes:
        names: heads of the confusion matrix: the classes, and of objects ``'nothing'``.
        confusion: number of items by true (row) and predicted class (column), int ``(K, K)``.
        background: index in ``names`` of what is no object; None without one.
        unit: what is counted: images, pixels or objects.
        curves: precision-recall curves of the classes that have any.
        calibration: None without scores.
        notes: what is left out, and why.
    """

    names: tuple[str, ...]
    confusion: np.ndarray
    background: int | None
    unit: str
    curves: list[Curve] = field(default_factory=list)
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()

    def tally(self) -> list[tuple[str, dict[str, int]]]:
        """Return for each class what was right, missed, taken for another, and invented.

        Without a background, all that was not recognised is missed, and all that was wrongly
        predicted is invented.
        """
        rows, nothing = [], self.background
        for label, name in enumerate(self.names):
            if label == nothing:
                continue
            truth, right = int(self.confusion[label].sum()), int(self.confusion[label, label])
            predicted = int(self.confusion[:, label].sum())
            row = dict(truth=truth, predicted=predicted, right=right)
            if nothing is None:
                row |= dict(missed=truth - right, invented=predicted - right)
            else:
                missed = int(self.confusion[label, nothing])
                row['missed'] = missed
                row['taken for another class'] = truth - right - missed
                row['invented'] = int(self.confusion[nothing, label])
            rows.append((name, row))
        return rows


class Figures(ABC):
    """Figures of one kind of task of a data set.

    Args:
        classes: names of the classes in label order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    @abstractmethod
    def add(self, content: Any) -> Verdict:
        """Count an image, and judge it."""

    @abstractmethod
    def result(self) -> TaskFigures:
        """Return the figures of all images so far."""


class SceneFigures(Figures):
    """Figures of scene classification, of images with one class each."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._confusion = np.zeros((len(classes), len(classes)), np.int64)
        self._scores, self._reliability = ScoreCounts(len(classes)), Reliability()

    def add(self, content: SceneAnswer) -> Verdict:
        """Count an image; its quality is the score of the true class."""
        scores, label = content.scores, content.label
        found = int(scores.argmax())
        self._confusion[label, found] += 1
        labels = np.arange(len(scores))
        self._scores.add(labels, scores, labels == label)
        self._reliability.add(scores[[found]], np.array([found == label]))
        text = f'{self.classes[label]}, predicted: {self.classes[found]} {scores[found]:.2f}'
        # a right answer that is not certain is no fault
        quality = 1.0 if found == label else min(float(scores[label]), 1 - 1e-9)
        return Verdict(quality, float(scores[found]), text)

    def result(self) -> TaskFigures:
        """Return the figures; curves are of each class against all others."""
        curves = _curves(self._scores, self.classes, self._confusion.sum(1))
        return TaskFigures(
            self.classes, self._confusion, None, 'images', curves, self._reliability.result()
        )


class MapFigures(Figures):
    """Figures of label maps and change maps, over all pixels that are not ignored."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._confusion = np.zeros((len(classes), len(classes)), np.int64)
        self._scores, self._reliability = ScoreCounts(len(classes)), Reliability()
        self._background = background_of(self.classes)

    def add(self, content: LabelMaps) -> Verdict:
        """Count the pixels of an image; its quality is the mean IoU of the classes in it."""
        valid = content.true != IGNORED
        true, found = content.true[valid].astype(np.int64), content.found[valid].astype(np.int64)
        number = len(self.classes)
        counts = np.bincount(true * number + found, minlength=number**2).reshape(number, number)
        self._confusion += counts
        if content.scores is not None:
            scores = content.scores[:, valid]
            for label in range(number):
                self._scores.add(label, scores[label], true == label)
            self._reliability.add(np.take_along_axis(scores, found[None], 0)[0], true == found)
        return self._judge(counts)

    def _judge(self, counts: np.ndarray) -> Verdict:
        total = counts.sum()
        if not total:
            return Verdict(float('nan'), 0, 'no pixel has a label')
        hit, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        ious = hit[union > 0] / union[union > 0]
        nothing = self._background
        if nothing is None:
            text = f'{100 * (1 - hit.sum() / total):.1f} % of the pixels wrong'
            return Verdict(float(ious.mean()), len(ious), text)
        missed = counts[:, nothing].sum() - counts[nothing, nothing]
        invented = counts[nothing].sum() - counts[nothing, nothing]
        other = total - hit.sum() - missed - invented
        shares = [(missed, 'missed'), (invented, 'invented'), (other, 'taken for another class')]
        text = (
            ', '.join(f'{100 * part / total:.1f} % {name}' for part, name in shares if part)
            or 'all pixels right'
        )
        return Verdict(float(ious.mean()), float(total - counts[nothing, nothing]), text)

    def result(self) -> TaskFigures:
        """Return the figures; curves are of each class against all others, pixel by pixel."""
        calibration = self._reliability.result()
        notes: tuple[str, ...] = ()
        if calibration is None:
            notes = (
                'The predictions are label maps without scores: there are no precision-recall '
                'curves and no calibration.',
            )
        return TaskFigures(
            self.classes,
            self._confusion,
            self._background,
            'pixels',
            _curves(self._scores, self.classes, self._confusion.sum(1)),
            calibration,
            notes,
        )


class ObjectFigures(Figures):
    """Figures of objects with upright or rotated boxes, matched at an IoU of 0.5.

    Confusion, missed and invented objects are of the predictions with a score of at least
    ``SHOWN_SCORE``; curves and calibration of all.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
        self._scores, self._reliability = ScoreCounts(len(classes)), Reliability()

    def add(self, content: ImageObjects) -> Verdict:
        """Count the objects of an image; its quality is the F1 score of those shown."""
        matches = match_objects(content)
        counted = matches.same >= NOBODY
        right = matches.same[counted] >= 0
        self._scores.add(content.labels[counted], content.scores[counted], right)
        self._reliability.add(content.scores[counted], right)

        shown = counted & (content.scores >= SHOWN_SCORE)
        true_of = np.where(matches.same >= 0, matches.same, matches.other)[shown]
        labels, nothing = content.labels[shown], len(self.classes)
        true_labels = np.append(content.true_labels, nothing)[true_of]  # the last one for NOBODY
        missed = ~content.ignored
        missed[true_of[true_of >= 0]] = False
        np.add.at(self._confusion, (true_labels, labels), 1)
        np.add.at(self._confusion, (content.true_labels[missed], nothing), 1)
        return self._judge(
            matches,
            right=int((true_labels == labels).sum()),
            missed=int(missed.sum()),
            invented=int((true_of < 0).sum()),
            other=int(((true_of >= 0) & (true_labels != labels)).sum()),
        )

    @staticmethod
    def _judge(matches: Matches, right: int, missed: int, invented: int, other: int) -> Verdict:
        counts = dict(right=right, missed=missed, invented=invented)
        counts['taken for another class'] = other
        text = ', '.join(f'{count} {name}' for name, count in counts.items() if count)
        weight = right + missed + invented + other
        if not weight:
            return Verdict(float('nan'), 0, 'no objects, none predicted', matches)
        quality = 2 * right / (2 * right + missed + invented + 2 * other)
        return Verdict(quality, weight, text, matches)

    def result(self) -> TaskFigures:
        """Return the figures."""
        truth = self._confusion[:-1].sum(1)
        return TaskFigures(
            (*self.classes, 'nothing'),
            self._confusion,
            len(self.classes),
            'objects',
            _curves(self._scores, self.classes, truth),
            self._reliability.result(),
            (
                'Predictions match at an IoU of 0.5. Confusion, missed and invented objects are '
                f'of predictions with a score of at least {SHOWN_SCORE}, curves and calibration of '
                'all.',
            ),
        )


def figures_of(content: Any, classes: Sequence[str]) -> Figures:
    """Return empty figures for a kind of content of :class:`mtp.evaluation.report.parts.Part`."""
    kinds: dict[type, type[Figures]] = {
        SceneAnswer: SceneFigures,
        LabelMaps: MapFigures,
        ImageObjects: ObjectFigures,
    }
    return kinds[type(content)](classes)


def background_of(classes: Sequence[str]) -> int | None:
    """Return the index of the class that is all but the objects, if there is one."""
    return next(iter(backgrounds_of(classes)), None)


def _curves(scores: ScoreCounts, classes: Sequence[str], truth: np.ndarray) -> list[Curve]:
    curves = (scores.curve(label, name, int(truth[label])) for label, name in enumerate(classes))
    return [curve for curve in curves if curve is not None]
