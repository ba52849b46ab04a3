"""Batches in tensors of fixed memory, which a captured training step reads again and again."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, cast

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


class StaticBatch:
    """Copy of a batch whose tensors stay where they are while other batches are copied into them.

    Args:
        batch: nested dicts, lists, tuples and data elements of mmengine with tensors.
        device: device of the copy.

    Attributes:
        content: the copy. What is no tensor in it stays that of the first batch.
    """

    def __init__(self, batch: Any, device: torch.device) -> None:
        self.content = _mapped(batch, device)
        self._tensors = list(tensors(self.content))

    @torch.no_grad()
    def fill(self, batch: Any) -> None:
        """Copy a batch of the same :func:`signature`; the host does not wait for the device."""
        for static, value in zip(self._tensors, tensors(batch), strict=True):
            static.copy_(value, non_blocking=True)


def tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch in a fixed order."""
    if isinstance(batch, Tensor):
        yield batch
    elif (inner := getattr(batch, 'tensor', None)) is not None:  # boxes of mmdet and mmrotate
        yield inner
    else:
        for _, value in _parts(batch) or ():
            yield from tensors(value)


def signature(batch: Any) -> Hashable:
    """Return what must be equal for two batches to be served by one captured step.

    These are structure, shapes, types, plain numbers and names, and of a sample the data set that
    it is of. Paths and other metainfo of samples do not count: a step does not read them.
    """
    if isinstance(batch, Tensor):
        return tuple(batch.shape), batch.dtype
    if (inner := getattr(batch, 'tensor', None)) is not None:
        return type(batch), signature(inner)
    parts = _parts(batch)
    if parts is None:
        plain = batch is None or isinstance(batch, int | float | str)
        return cast(Hashable, batch if plain else type(batch))
    of_sample = batch.get('dataset') if isinstance(batch, BaseDataElement) else None
    return type(batch), of_sample, tuple((name, signature(value)) for name, value in parts)


def _parts(batch: Any) -> list[tuple[Any, Any]] | None:
    """Return the named parts of a container; None for other values."""
    if isinstance(batch, BaseDataElement):
        return sorted(batch.items())
    if isinstance(batch, Mapping):
        return list(batch.items())
    if isinstance(batch, list | tuple):
        return list(enumerate(batch))
    return None


def _mapped(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return torch.empty_like(batch, device=device).copy_(batch)
    if (inner := getattr(batch, 'tensor', None)) is not None:
        return type(batch)(_mapped(inner, device), clone=False)
    parts = _parts(batch)
    if parts is None:
        return batch
    values = {name: _mapped(value, device) for name, value in parts}
    if isinstance(batch, BaseDataElement):
        return batch.new(**values)
    return values if isinstance(batch, Mapping) else type(batch)(values.values())
