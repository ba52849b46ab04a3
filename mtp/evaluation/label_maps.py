"""Figures of label maps that a single mean does not tell."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor

BACKGROUNDS = ('background', 'unchanged')  # names of a class that is all but the objects


def without_background(names: Sequence[str], ious: np.ndarray) -> dict[str, float]:
    """Return ``mIoU_without_background``, or nothing if no class is the background.

    Args:
        names: names of the classes.
        ious: IoU of each class, nan for one that occurs nowhere.
    """
    objects = np.ones(len(names), bool)
    objects[backgrounds_of(names)] = False
    if objects.all() or not objects.any():
        return {}
    return {'mIoU_without_background': mean_of_defined(ious[objects])}


def backgrounds_of(names: Sequence[str]) -> list[int]:
    """Return the labels of the classes that are all but the objects."""
    return [label for label, name in enumerate(names) if name.lower() in BACKGROUNDS]


def probabilities_of(logits: Tensor) -> np.ndarray:
    """Return the probability of each class, float32 ``(K, H, W)``.

    Args:
        logits: logits ``(K, H, W)``; of two classes perhaps one channel, for which mmseg gives the
            probability of the second.
    """
    logits = logits.detach().float()
    found = torch.cat([1 - logits, logits]) if len(logits) == 1 else logits.softmax(0)
    return found.cpu().numpy()


def mean_of_defined(values: np.ndarray) -> float:
    """Return the mean of the numbers that are not nan, or nan if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float('nan')


def judge_labels(names: Sequence[str], labelled: np.ndarray) -> tuple[int, bool]:
    """Warn of classes without a labelled pixel.

    Args:
        names: names of the classes.
        labelled: number of labelled pixels of each class.

    Returns:
        tuple: the number of these classes, and whether a mean over the classes says anything. With
        the labels of one class, whoever always answers with that class seems perfect.
    """
    missing = [name for name, number in zip(names, labelled) if not number]
    says_something = len(names) - len(missing) > 1
    if missing:
        MMLogger.get_current_instance().warning(
            f'No pixel of these images is labelled {", ".join(missing)}: '
            + (
                f'the means are of the {len(names) - len(missing)} other classes'
                if says_something
                else 'with fewer than two classes there is no mIoU, and no checkpoint is best by it'
            )
        )
    return len(missing), says_something
