"""What one has to know of a data set."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What one has to know of a data set.

    Attributes:
        title: its name in papers.
        task: ``'classification'``, ``'horizontal'``, ``'rotated'``, ``'segmentation'`` or
            ``'change'``.
        classes: in label order.
        source: who distributes it and how to find it.
        licence: terms of use.
        size: number of images and their size.
        layout: what the folder that ``tools/data/prepare.py`` reads must hold.
        palette: RGB of each class, of those that are drawn as areas.
    """
    title: str
    task: str
    classes: tuple[str, ...]
    source: str
    licence: str
    size: str
    layout: str
    palette: tuple[tuple[int, int, int], ...] = ()
