"""Description of a data set to finetune on: facts, preparation and synthetic copy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

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
    """Part of a prepared data set; paths are relative to its root.

    Attributes:
        name: name of the split, e.g. ``'train'``.
        images: folder of the images, or of one folder of images per class.
        labels: folder with one label file per image, or COCO json of all images; empty if folders
            or a list give the labels, or if only the benchmark's server has them.
        later: folder of the later date of each pair; ``images`` holds the earlier date.
        listed: text file with one line per image; empty if the split is the whole folder.
        suffixes: suffixes of the images and of text label files.
    """

    name: str
    images: str
    labels: str = ''
    later: str = ''
    listed: str = ''
    suffixes: tuple[str, str] = ('.png', '.txt')


@dataclass(frozen=True)
class DataSet:
    """All that is known about a data set to finetune on.

    Attributes:
        title: name of the data set in papers.
        task: task, one of :data:`TASKS`.
        classes: class names, in label order.
        source: publisher, and how to find the files.
        licence: terms of use.
        size: number of images, their size in pixels and on the ground, and their splits.
        layout: content of the folder that ``mtp data prepare`` reads.
        citation: paper to cite.
        splits: splits that the recipe reads, as prepared.
        prepare: function of the folder with the publisher's files and of the folder to write to;
            its docstring describes the result.
        synthesise: function of a folder and ``seed`` that writes a small synthetic copy there, in
            the publisher's format, and returns the folder.
        palette: RGB colour of each class, for classes that are drawn as areas.
        label_values: values that label maps may hold; empty if they are the class indices.
        multi_scale: whether ``prepare`` takes ``multi_scale``, to cut at several scales.

    Raises:
        ValueError: the task is unknown, or the palette does not have one colour per class.
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


class ChangeFields(TypedDict):
    """Fields of :class:`DataSet` that are the same for all data sets for change detection."""

    task: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_values: tuple[int, ...]


CHANGE = ChangeFields(
    task='change_detection',
    classes=('unchanged', 'changed'),
    palette=((0, 0, 0), (255, 255, 255)),
    label_values=(0, 255),
)


def pair_splits(*names: str) -> tuple[Split, ...]:
    """Return the splits of a data set of pairs: ``<name>/{A,B,label}``."""
    return tuple(Split(name, f'{name}/A', f'{name}/label', later=f'{name}/B') for name in names)


# Images cut into tiles, with DOTA's text labels; only the benchmark's server has those of `test`.
TILES = (Split('trainval', 'trainval/images', 'trainval/annfiles'), Split('test', 'test/images'))
