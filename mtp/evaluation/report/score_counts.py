"""Counts of scores, from which precision-recall curves and calibration follow in bounded memory."""

from dataclasses import dataclass

import numpy as np

# Scores are counted in bins of this number to 1, so curves have a point per multiple of 1 / BINS.
BINS = 1000
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Curve:
    """Precision over recall of a class, by rising score from which predictions count.

    Attributes:
        name: name of the class.
        thresholds: scores ``(T,)``, 0..1, multiples of 1 / ``BINS``.
        recall: recall ``(T,)``, 0..1, of the predictions of at least that score.
        precision: precision ``(T,)``, 0..1, of the same.
    """

    name: str
    thresholds: np.ndarray
    recall: np.ndarray
    precision: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """How often predictions of a score are right.

    Attributes:
        counts: predictions in each of the bins of equal width, int ``(B,)``.
        scores: their mean score ``(B,)``, 0..1, nan in an empty bin.
        shares: share of right ones ``(B,)``, 0..1, nan in an empty bin.
        error: expected calibration error, 0..1: mean of ``|scores - shares|`` over the predictions.
    """

    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    error: float


class ScoreCounts:
    """Right and wrong predictions of each class by their score.

    Args:
        number: number of classes.
    """

    def __init__(self, number: int) -> None:
        self.right, self.wrong = np.zeros((2, number, BINS), np.int64)

    def add(self, label: int | np.ndarray, scores: np.ndarray, right: np.ndarray) -> None:
        """Count predictions.

        Args:
            label: class of all of them, or of each, ``(N,)``.
            scores: scores ``(N,)``, 0..1.
            right: whether they are right, bool ``(N,)``.
        """
        place = label * BINS + bins_of(scores, BINS)
        for counts, chosen in ((self.right, right), (self.wrong, ~right)):
            counts += np.bincount(place[chosen], minlength=counts.size).reshape(counts.shape)

    def curve(self, label: int, name: str, positives: int) -> Curve | None:
        """Return the curve of a class; None without ground truth or predictions.

        Args:
            label: the class.
            name: its name.
            positives: number of ground-truth items of the class.
        """
        right, wrong = (
            counts[label, ::-1].cumsum()[::-1].astype(np.float64)
            for counts in (self.right, self.wrong)
        )
        some = right + wrong > 0
        if not positives or not some.any():
            return None
        thresholds = np.arange(BINS)[some] / BINS
        right, wrong = right[some], wrong[some]
        return Curve(name, thresholds, right / positives, right / (right + wrong))


class Reliability:
    """Right and wrong predictions by their score, for the calibration."""

    def __init__(self) -> None:
        self._counts, self._scores, self._right = np.zeros((3, CALIBRATION_BINS))

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """Count predictions: scores ``(N,)``, 0..1, and whether they are right, bool ``(N,)``."""
        place = bins_of(scores, CALIBRATION_BINS)
        for sums, weights in (
            (self._counts, None),
            (self._scores, scores),
            (self._right, right.astype(np.float64)),
        ):
            sums += np.bincount(place, weights, minlength=CALIBRATION_BINS)

    def result(self) -> Calibration | None:
        """Return the calibration; None without predictions."""
        total = self._counts.sum()
        if not total:
            return None
        with np.errstate(invalid='ignore'):  # 0 / 0 is nan on purpose
            scores, shares = self._scores / self._counts, self._right / self._counts
        error = np.nansum(self._counts * np.abs(scores - shares)) / total
        return Calibration(self._counts.astype(np.int64), scores, shares, float(error))


def bins_of(scores: np.ndarray, number: int) -> np.ndarray:
    """Return the bins, of ``number`` from 0 to 1, that scores fall in; 1 is in the last."""
    return np.clip((scores.astype(np.float64) * number).astype(np.int64), 0, number - 1)
