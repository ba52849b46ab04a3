"""Choice of a few images of a data set, spread over its classes and its parts."""

from collections import Counter
from typing import Any

import numpy as np


def choose_images(dataset: Any, number: int) -> set[str]:
    """Return the paths of at most ``number`` images of each part of a data set.

    Where the records of the images have labels, each class in turn, the rarest first, adds an
    image; the others, such as label maps, are evenly spaced.

    Args:
        dataset: data set of mmengine, or a concatenation of several.
        number: largest number of images of a part.
    """
    return {
        part.get_data_info(index)['img_path']
        for part in getattr(dataset, 'datasets', None) or [dataset]
        for index in _spread([_labels(part.get_data_info(i)) for i in range(len(part))], number)
    }


def _labels(record: dict) -> set[int]:
    """Return the labels in the record of an image: of mmpretrain, mtp, mmdet or mmrotate."""
    if 'gt_label' in record:
        return {*np.atleast_1d(record['gt_label']).tolist()}
    if 'labels' in record:
        return {*record['labels'].labels.tolist()}
    return {instance['bbox_label'] for instance in record.get('instances', ())}


def _spread(labels: list[set[int]], number: int) -> list[int]:
    """Return at most ``number`` indices, which cover the labels as evenly as they can."""
    # evenly spaced first: neighbours are often tiles of one scene
    order = sorted(range(len(labels)), key=lambda index: index * 0.6180339887 % 1)
    counts = Counter(label for of_image in labels for label in of_image)
    waiting = {
        label: [index for index in order if label in labels[index]]
        for label in sorted(counts, key=lambda label: (counts[label], label))
    }
    chosen: dict[int, None] = {}
    while len(chosen) < number and waiting:
        for label, images in list(waiting.items()):
            images[:] = [index for index in images if index not in chosen]
            if not images:
                del waiting[label]
            elif len(chosen) < number:
                chosen[images[0]] = None
    rest = [index for index in order if index not in chosen]
    return [*chosen, *rest][:number]
