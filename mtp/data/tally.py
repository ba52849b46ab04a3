"""Counts of what a reader takes and of what it leaves out, and how they are said."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What a reader took, left out and read otherwise than it stands.

    Attributes:
        images: number of images that are used.
        objects: number of objects in them, positive samples; None for labels that are no objects.
        of_class: class name -> number of its objects (or images, where images have a class).
        left_out: what was left out and why, e.g. ``'objects without area'`` -> places, each a file
            and a line or an object in it.
        ignored: kind, e.g. ``'crowds'`` -> number of objects of it in these images that are neither
            positive nor negative samples.
        notes: what was read otherwise than it stands, a line each, e.g. a class name.
    """

    images: int = 0
    objects: int | None = None
    of_class: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, place: str) -> None:
        """Count something that is left out.

        Args:
            reason: kind and reason in the plural, e.g. ``'objects without area'``.
            place: file, and line or object in it.
        """
        self.left_out[reason].append(place)

    def note(self, text: str) -> None:
        """Note what is read otherwise than it stands; the same text is noted once."""
        if text not in self.notes:
            self.notes.append(text)

    def add(self, other: 'Tally') -> None:
        """Add the counts of another reader."""
        self.images += other.images
        if other.objects is not None:
            self.objects = (self.objects or 0) + other.objects
        self.of_class += other.of_class
        self.ignored += other.ignored
        for reason, places in other.left_out.items():
            self.left_out[reason] += places
        for text in other.notes:
            self.note(text)

    def counts(self) -> Counter[str]:
        """Return how many things were left out for each reason."""
        return Counter({reason: len(places) for reason, places in self.left_out.items() if places})

    def summary(self) -> str:
        """Return a line such as ``images 520, objects 3,651, left out 3: objects without area``."""
        parts = [f'images {self.images:,}']
        if self.objects is not None:
            parts.append(f'objects {self.objects:,}')
        parts += [
            f'{what} {sum(counts.values()):,}: '
            + ', '.join(
                reason if len(counts) == 1 else f'{count:,} {reason}'
                for reason, count in counts.items()
            )
            for what, counts in (('ignored', self.ignored), ('left out', self.counts()))
            if counts
        ]
        return ', '.join(parts)

    def lines(self) -> Iterable[str]:
        """Yield a line for each thing that was left out: its place and the reason."""
        for reason, places in self.left_out.items():
            for place in places:
                yield f'{place}: left out, as all {reason}'
