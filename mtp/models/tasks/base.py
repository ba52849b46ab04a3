"""What a task of the multi-task model is."""
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass

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
    """
    samples: SampleList
    groups: dict[str, slice]

    @property
    def sizes(self) -> list[int]:
        """Images per data set, in batch order."""
        return [s.stop - s.start for s in self.groups.values()]

    @property
    def metas(self) -> list[dict]:
        """Meta information of each image, as the heads of OpenMMLab take it."""
        return [sample.metainfo for sample in self.samples]


class Task(BaseModule, metaclass=ABCMeta):
    """One decoder for all data sets, with last layers of their own.

    A subclass trains and predicts on the four feature maps of the backbone. Its constructor gets
    ``in_channels`` (channels of the four maps) and ``num_classes`` (data set -> number of classes,
    background not counted; only the data sets that have this task's labels).
    """

    @abstractmethod
    def loss(self, features: list[Tensor], batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        """Return data set -> term -> loss (a scalar, or a list to sum); ``acc*`` is only logged."""

    @abstractmethod
    def predict(self, features: list[Tensor], batch: TaskBatch) -> None:
        """Add this task's predictions to ``batch.samples``, in pixels of the original image."""


def count_ratio(counts: list[int], like: Tensor) -> Tensor:
    """This process's share of a loss normaliser, relative to the mean over processes.

    A loss averaged over ``n`` local items and multiplied by ``n / mean(n)`` gives, averaged over
    processes as DDP averages gradients, the loss of the whole batch in one process.

    Args:
        counts: items that each loss was averaged over, here.
        like: a tensor on the device to communicate from.

    Returns:
        Tensor: float32, one factor per count; ones with a single process.
    """
    local = torch.tensor(counts, dtype=torch.float32, device=like.device)
    if get_world_size() == 1:
        return torch.ones_like(local)
    return local / reduce_mean(local).clamp(min=torch.finfo(local.dtype).tiny)
