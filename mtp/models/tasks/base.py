"""What a task of the multi-task model is."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from mmdet.structures import SampleList
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from mmengine.model import BaseModule
from torch import Tensor


@dataclass
class TaskBatch:
    """The images of a batch that a task works on, those of one data set next to each other.

    Attributes:
        samples: one ``DetDataSample`` per image.
        groups: data set -> its slice of ``samples`` (and of every feature map's batch axis).
        device: of the images.
    """

    samples: SampleList
    groups: dict[str, slice]
    device: torch.device

    @property
    def sizes(self) -> list[int]:
        """Images per data set, in batch order."""
        return [s.stop - s.start for s in self.groups.values()]

    @cached_property
    def shapes(self) -> Tensor:
        """Float32 ``(B, 4)``: height and width, with the padding open to anchors and without."""
        return to_device(
            [(*sample.pad_shape[:2], *sample.img_shape[:2]) for sample in self.samples],
            self.device,
            torch.float32,
        )

    def sums(self, values: Tensor) -> Tensor:
        """Sum what each image has, ``(B,)``, to what each data set has, ``(K,)``."""
        return torch.stack([values[group].sum() for group in self.groups.values()])


class Task(BaseModule, metaclass=ABCMeta):
    """One decoder for all data sets, with last layers of their own.

    A subclass trains and predicts on the four feature maps of the backbone. Its constructor gets
    ``in_channels`` (channels of the four maps) and ``num_classes`` (data set -> number of classes,
    background not counted; only the data sets that have this task's labels).

    Training never makes the host wait for the device: shapes follow from the batch alone, and what
    an image lacks is masked. What runs on the device does not grow in number with images.
    """

    @abstractmethod
    def loss(self, features: list[Tensor], batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        """Return data set -> term -> loss (a scalar); ``acc*`` is only logged."""

    @abstractmethod
    def predict(self, features: list[Tensor], batch: TaskBatch) -> None:
        """Add this task's predictions to ``batch.samples``, in pixels of the original image."""


def to_device(values: Sequence, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers of the host as a tensor; the host does not wait for the copy."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == 'cuda':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """The rows ``index``, ``(B, S)``, of each image's ``values``, ``(B, N, D)``: ``(B, S, D)``."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def mark_varying(values: Tensor, dim: int) -> Tensor:
    """Have ``torch.compile`` make one code for all sizes of a dimension; returns ``values``."""
    torch._dynamo.maybe_mark_dynamic(values, dim)
    return values


def is_highest(logits: Tensor, index: Tensor) -> Tensor:
    """Return whether ``index`` is ``logits.argmax(1)``, bool ``(N,)``; never where that is NaN.

    ``argmax`` itself, compiled into one kernel with a softmax, takes long to compile or cannot be.

    Args:
        logits: ``(N, C)``.
        index: int64 ``(N,)``, 0..C-1.
    """
    index = index[:, None]
    own = logits.gather(1, index)
    earlier = torch.arange(logits.shape[1], device=logits.device) < index
    return torch.where(earlier, own > logits, own >= logits).all(1)


def count_ratio(counts: Tensor) -> Tensor:
    """This process's share of a loss normaliser, relative to the mean over processes.

    A loss averaged over ``n`` local items and multiplied by ``n / mean(n)`` gives, averaged over
    processes as DDP averages gradients, the loss of the whole batch in one process.

    Args:
        counts: number of items in this process's average, float32, one per loss.

    Returns:
        Tensor: float32, one factor per count; ones with a single process.
    """
    if get_world_size() == 1:
        return torch.ones_like(counts)
    return counts / reduce_mean(counts).clamp(min=torch.finfo(counts.dtype).tiny)
