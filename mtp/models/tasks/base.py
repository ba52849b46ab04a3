"""Interface of a task of the multi-task model, and what tasks share."""

import itertools
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from mmdet.structures import SampleList
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from mmengine.model import BaseModule
from torch import Tensor, nn


@dataclass
class TaskBatch:
    """Images of a batch that a task works on, those of one data set next to each other.

    Attributes:
        samples: one ``DetDataSample`` per image.
        groups: data set -> its slice of ``samples`` (and of every feature map's batch axis).
        device: device of the images.
    """

    samples: SampleList
    groups: dict[str, slice]
    device: torch.device

    @property
    def sizes(self) -> list[int]:
        """Number of images per data set, in batch order."""
        return [s.stop - s.start for s in self.groups.values()]

    @cached_property
    def shapes(self) -> Tensor:
        """Height and width with the padding open to anchors, then without: float32 ``(B, 4)``.

        In training the data preprocessor has put them on the device.
        """
        if 'shapes' in self.samples[0]:
            return stack_rows([sample.shapes for sample in self.samples])
        return to_device(
            [(*sample.pad_shape[:2], *sample.img_shape[:2]) for sample in self.samples],
            self.device,
            torch.float32,
        )

    @cached_property
    def seeds(self) -> Tensor:
        """Seed of each image's random draws, int64 ``(B,)``; of torch's generator without any."""
        if 'seed' in self.samples[0]:
            return stack_rows([sample.seed for sample in self.samples])
        return torch.randint(1 << 62, (len(self.samples),), device=self.device)

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of the images, ``(..., B)``, to one value per data set, ``(..., K)``."""
        return sums_of_groups(values, self.sizes)


def sums_of_groups(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum values ``(..., B)`` of groups of ``sizes`` neighbours to one value per group."""
    if len({*sizes}) == 1:  # in one launch
        return values.unflatten(-1, (len(sizes), -1)).sum(-1)
    return torch.stack([group.sum(-1) for group in values.split(sizes, -1)], -1)


class Task(BaseModule, metaclass=ABCMeta):
    """One decoder for all data sets, with last layers per data set.

    A subclass trains and predicts on the four feature maps of the backbone. Its constructor gets
    ``in_channels`` (channels of the four maps) and ``num_classes`` (data set -> number of classes,
    background not counted; only the data sets that have this task's labels).

    Training never makes the host wait for the device: shapes follow from the batch alone, and
    padded slots are masked. The number of operations does not grow with the number of images.
    """

    @abstractmethod
    def loss(self, features: list[Tensor], batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        """Return data set -> term -> loss (a scalar); one without ``loss`` is only logged."""

    @abstractmethod
    def predict(self, features: list[Tensor], batch: TaskBatch) -> None:
        """Add this task's predictions to ``batch.samples``, in pixels of the original image."""


def to_device(values: Sequence, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy numbers of the host to a tensor on the device; the host does not wait for it."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == 'cuda':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def stack_rows(rows: list[Tensor]) -> Tensor:
    """Stack tensors; if they are all rows of a tensor, in order, return it without a copy."""
    whole = rows[0]._base
    if whole is None or whole.shape[:1] != (len(rows),):
        return torch.stack(rows)
    own = [_layout(row) for row in whole]
    uncut = all(row._base is whole for row in rows) and own == [_layout(row) for row in rows]
    return whole if uncut else torch.stack(rows)


def _layout(view: Tensor) -> tuple:
    return view.shape, view.stride(), view.storage_offset()


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Gather each image's rows ``(B, S, D)``.

    Args:
        values: rows of each image, ``(B, N, D)``.
        index: indices of the rows, int64 ``(B, S)``.
    """
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def mark_varying(values: Tensor, dim: int) -> Tensor:
    """Let ``torch.compile`` make one code for all sizes of a dimension; return ``values``."""
    torch._dynamo.maybe_mark_dynamic(values, dim)
    return values


def is_highest(logits: Tensor, index: Tensor) -> Tensor:
    """Return whether ``index`` is ``logits.argmax(1)``, bool ``(N,)``; False for rows with NaN.

    ``argmax`` itself, fused into one kernel with a softmax, compiles slowly or not at all.

    Args:
        logits: logits of N items, ``(N, C)``.
        index: class of each item, int64 ``(N,)``, 0..C-1.
    """
    index = index[:, None]
    own = logits.gather(1, index)
    earlier = torch.arange(logits.shape[1], device=logits.device) < index
    return torch.where(earlier, own > logits, own >= logits).all(1)


@dataclass
class Terms:
    """Terms of the losses of B images: sums over items, and the numbers of these items.

    Attributes:
        names: names of T terms.
        sums: sum of each term over an image's items, ``(T, B)``.
        counts: number of an image's items for each term, float32 ``(T, B)``, without gradients.
        datasets: data sets that have the terms; None for all.
    """

    names: tuple[str, ...]
    sums: Tensor
    counts: Tensor
    datasets: Collection[str] | None = None


def quotients(
    sums: Tensor, shares: Tensor, counts: Tensor, sizes: Sequence[int], least: float
) -> tuple[Tensor, Tensor]:
    """Divide terms by the numbers of their items.

    Args:
        sums: sum of each of L losses over an image's items, ``(L, B)``.
        shares: sum of each of S logged terms over a data set's items, ``(S, K)``.
        counts: number of items that a process has on average, ``(L + S, K)``.
        sizes: number of images of each data set.
        least: number that stands for all lower counts.

    Returns:
        tuple: losses ``(L, K)``, and logged terms in percent, ``(S, K)``.
    """
    counts, of_shares = counts.clamp(min=least).split([len(sums), len(shares)])
    return sums_of_groups(sums, sizes) / counts, 100 * shares / of_shares


def average(
    batch: TaskBatch,
    losses: Sequence[Terms],
    logged: Sequence[Terms] = (),
    divide: Callable[..., tuple[Tensor, Tensor]] = quotients,
) -> dict[str, dict[str, Tensor]]:
    """Divide sums by the numbers of items that a process has on average.

    Averaged over processes, as DDP averages gradients, this gives the terms of the whole batch in
    one process. All go through the same few launches, and one exchange between the processes.

    Args:
        batch: images and their data sets.
        losses: terms to train by.
        logged: terms that are only logged: shares, which become percentages.
        divide: :func:`quotients`, compiled or not.

    Returns:
        dict: data set -> term -> scalar, 0 where there are no items.
    """
    every = [*losses, *logged]
    numbers = [sum(len(terms.names) for terms in kind) for kind in (losses, logged)]
    rest = [*(terms.counts for terms in every), *(terms.sums for terms in logged)]
    counts, shares = batch.sums(torch.cat(rest)).split([sum(numbers), numbers[1]])
    sums = torch.cat([terms.sums for terms in losses])
    # Less than one item in all processes together is none: then the sums are 0.
    averages = divide(sums, shares, reduce_mean(counts), batch.sizes, 1 / get_world_size())
    values = itertools.chain(*(kind.flatten().unbind() for kind in averages))
    found: dict[str, dict[str, Tensor]] = {name: {} for name in batch.groups}
    for terms in every:
        for term, (name, of_dataset) in itertools.product(terms.names, found.items()):
            value = next(values)
            if terms.datasets is None or name in terms.datasets:
                of_dataset[term] = value
    return found


def joined(layers: Iterable[nn.Module]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one layer that does what several do with the same input."""
    weights, biases = zip(*((layer.weight, layer.bias) for layer in layers))
    return torch.cat(weights), torch.cat(biases)
