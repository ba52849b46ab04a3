"""Names of classes: those of a config, and those in label files, matched by one rule."""

from collections import Counter
from collections.abc import Iterable, Sequence

from mtp.data.tally import Tally
from mtp.files import UnusableFileError
from mtp.spelling import fold, suggest


def check_classes(classes: object) -> tuple[str, ...]:
    """Return the class names of a config.

    Args:
        classes: names in label order.

    Raises:
        ValueError: they are no sequence of texts (a single name without a comma is a text), there
            are none, or one is empty or given twice.
    """
    if isinstance(classes, str):
        raise ValueError(
            f'classes is the text {classes!r}, not a sequence of names: for a single class, write '
            f'classes=({classes!r},) with a comma'
        )
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'classes is {classes!r:.80}: give a tuple of names, in label order')
    if not classes or not all(name.strip() for name in classes):
        raise ValueError(f'classes is {classes!r:.80}: give at least one name, and none empty')
    name, times = Counter(map(fold, classes)).most_common(1)[0]
    if times > 1:
        alike = [each for each in classes if fold(each) == name]
        raise ValueError(f'classes has {" and ".join(map(repr, alike))}: give each class once')
    return tuple(classes)


def merge_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the classes that names mean, sorted: those that :class:`ClassNames` equates are one.

    Args:
        names: names in any order, e.g. of folders; they may repeat.
    """
    return first_spellings(sorted(names))


def first_spellings(names: Iterable[str]) -> tuple[str, ...]:
    """Return the classes that names mean, in their order, each as it is spelled first."""
    classes: dict[str, str] = {}
    for name in names:
        classes.setdefault(fold(name), name)
    return tuple(classes.values())


class ClassNames:
    """The classes of a data set, and the names that label files call them by.

    A name that differs from a class in case, or in spaces, hyphens and underscores only, is that
    class, which is noted.

    Args:
        classes: names in label order.
        tally: counts of the reader, for the notes.
    """

    def __init__(self, classes: Sequence[str], tally: Tally) -> None:
        self.classes = check_classes(classes)
        self._tally = tally
        self._labels = {name: label for label, name in enumerate(self.classes)}
        self._folded = {fold(name): label for label, name in enumerate(self.classes)}

    def label(self, name: str, place: str) -> int:
        """Return the label of a class, from 0.

        Args:
            name: name in a label file.
            place: file and line, or file and object, for the message.

        Raises:
            UnusableFileError: there is no such class.
        """
        label = self.find(name)
        if label is None:
            raise UnusableFileError(
                f'{place}: {name!r:.60} is no class{suggest(name, self.classes)}; the classes are '
                f'{", ".join(self.classes)}: correct the label, or add the class to `classes` of '
                'the config'
            )
        return label

    def find(self, name: str) -> int | None:
        """Return the label of a class, from 0; None if there is no such class."""
        label = self._labels.get(name)
        if label is None:
            label = self._folded.get(fold(name))
            if label is None:
                return None
            self._labels[name] = label
            self._tally.note(f'{name!r} is read as the class {self.classes[label]!r}')
        return label
