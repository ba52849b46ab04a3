"""What is known of a data set to finetune on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtp.data.prepare.base import Report

TASKS = (
    'classification',
    'horizontal_detection',
    'rotated_detection',
    'segmentation',
    'change_detection',
)


@dataclass(frozen=True)
class Split:
    """A part of a prepared data set; paths are relative to its root.

    Attributes:
        name: name of the split, e.g. ``'train'``.
        images: folder of the images, or of a folder of images for each class.
        labels: folder of a label file for each image, or COCO json of all of them; empty where
            folders or a list tell the labels, or where only the benchmark's server knows them.
        later: folder of the later date of each pair, whose earlier date is in ``images``.
        listed: text file with a line for each image; empty where the split is the whole folder.
        suffixes: suffix of the images and of their label files, where these are text.
    """

    name: str
    images: str
    labels: str = ''
    later: str = ''
    listed: str = ''
    suffixes: tuple[str, str] = ('.png', '.txt')


@dataclass(frozen=True)
class DataSet:
    """All that is known of a data set to finetune on.

    Attributes:
        title: name in papers.
        task: one of :data:`TASKS`.
        classes: class names, in label order.
        source: publisher, and how to find it.
        licence: terms of use.
        size: number of the images, their size in pixels and on the ground, division.
        layout: what the folder that ``tools/data/prepare.py`` reads must hold.
        citation: the paper to cite.
        splits: those that the recipe reads, as prepared.
        prepare: function of the publisher's files and of the folder to write to; its docstring
            tells what becomes of them.
        synthesise: function of a folder and ``seed`` that writes a small synthetic copy there, in
            the publisher's form, and returns the folder.
        palette: RGB of each class, for those that are drawn as areas.
        label_values: values that label maps may hold; empty for the labels themselves.
        multi_scale: whether ``prepare`` takes ``multi_scale``, to cut at several scales.

    Raises:
        ValueError: the task is unknown, or the palette is not one of the classes.
    """

    title: str
    task: str
    classes: tuple[str, ...]
    source: str
    licence: str
    size: str
    layout: str
    citation: str
    splits: tuple[Split, ...]
    prepare: Callable[..., Report]
    synthesise: Callable[..., Path]
    palette: tuple[tuple[int, int, int], ...] = ()
    label_values: tuple[int, ...] = ()
    multi_scale: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(
                f'{self.title}: no task is called {self.task!r}; there are {", ".join(TASKS)}'
            )
        if len(self.palette) not in (0, len(self.classes)):
            raise ValueError(
                f'{self.title}: {len(self.palette)} colours for {len(self.classes)} classes'
            )


# Shared by all data sets for change detection.
CHANGE = dict(
    task='change_detection',
    classes=('unchanged', 'changed'),
    palette=((0, 0, 0), (255, 255, 255)),
    label_values=(0, 255),
)


def pair_splits(*names: str) -> tuple[Split, ...]:
    """Return the splits of a data set of pairs: ``<name>/{A,B,label}``."""
    return tuple(Split(name, f'{name}/A', f'{name}/label', later=f'{name}/B') for name in names)


# Images cut into tiles, with DOTA's text; the benchmark's server keeps the labels of `test`.
TILES = (Split('trainval', 'trainval/images', 'trainval/annfiles'), Split('test', 'test/images'))
