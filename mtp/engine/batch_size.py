"""The recipe's batch size on any number of processes, within the memory of each GPU."""

import math
from collections.abc import Collection, Iterable
from typing import Any

from mmengine.config import Config

DERIVED = (
    'train_dataloader.batch_size',
    'train_dataloader.sampler.images_per_dataset',
    'train_cfg.accumulation',
)


def share_batch(cfg: Config, processes: int, options: Collection[str] = ()) -> None:
    """Divide the images of a step, ``total_batch_size``, among processes and batches.

    ``total_batch_size`` is one number, of which every pretraining data set gets an equal share, or
    a number per data set by name. A process splits its share into as few batches as possible of at
    most ``images_per_gpu`` images each (None: one batch), and accumulates their gradients. A config
    without ``total_batch_size`` sets the images of a process itself, and stays as it is.

    Args:
        cfg: training config, changed in place: ``batch_size`` of the ``train_dataloader``,
            ``images_per_dataset`` of its sampler, and ``train_cfg.accumulation``.
        processes: number of processes.
        options: dotted keys that the user has set.

    Raises:
        ValueError: the images cannot be divided like this (the message gives numbers that work),
            or the user has set a key that is derived here.
    """
    _refuse_unread(cfg, options)
    if 'total_batch_size' not in cfg:
        return
    totals = _images_of_each(cfg)
    accumulation = _batches(totals, processes, cfg.get('images_per_gpu'))
    batch = {name: total // (processes * accumulation) for name, total in totals.items()}
    cfg.train_dataloader.batch_size = sum(batch.values())
    if '' not in totals:
        cfg.train_dataloader.sampler.images_per_dataset = batch
    cfg.train_cfg.pop('accumulation', None)  # from a config that an earlier run wrote
    if accumulation > 1:
        cfg.train_cfg.accumulation = accumulation


def _batches(totals: dict[str, int], processes: int, most: int | None) -> int:
    """Return the smallest number of equal batches per step, each of at most ``most`` images."""
    whole, common = sum(totals.values()), math.gcd(*totals.values())
    if common % processes:
        raise ValueError(_refusal(totals, common, processes))
    smallest = whole // common  # every batch size is a multiple of this
    if most is not None and most < smallest:
        raise ValueError(
            f'images_per_gpu={most}: the smallest batch of this recipe has '
            f'{_by_name(totals, common)}; give at least {smallest}'
        )
    return next(
        number
        for number in _divisors(common // processes)
        if most is None or whole // (processes * number) <= most
    )


def _refuse_unread(cfg: Config, options: Collection[str]) -> None:
    if 'total_batch_size' not in cfg:
        if cfg.get('images_per_gpu') is not None:
            raise ValueError(
                '--images-per-gpu divides total_batch_size, which this config does '
                'not have: set train_dataloader.batch_size'
            )
        return
    for key in DERIVED:
        if any(option == key or option.startswith(f'{key}.') for option in options):
            raise ValueError(
                f'--cfg-options {key} is derived from the images of a step: set '
                'total_batch_size, or how many a GPU takes at once, --images-per-gpu'
            )


def _images_of_each(cfg: Config) -> dict[str, int]:
    """Return data set -> images of a step; the key of a single data set is ``''``."""
    total = cfg.total_batch_size
    if 'images_per_dataset' not in cfg.train_dataloader.get('sampler', {}):
        if not _is_number(total):
            raise ValueError(f'total_batch_size={total}: give a whole number of at least 1')
        return {'': total}
    names = [
        dataset.get('name', dataset.get('subset'))
        for dataset in cfg.train_dataloader.dataset.datasets
    ]
    if _is_number(total):
        if total % len(names):
            raise ValueError(
                f'total_batch_size={total} cannot be divided equally among the '
                f'{len(names)} data sets {", ".join(names)}: set it to a multiple of '
                f'{len(names)}, or give a number for each by name'
            )
        return dict.fromkeys(names, total // len(names))
    if (
        not isinstance(total, dict)
        or set(total) != set(names)
        or not all(map(_is_number, total.values()))
    ):
        raise ValueError(
            f'total_batch_size={total}: give a whole number of at least 1, or one for '
            f'each of {", ".join(names)}'
        )
    return dict(total)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _refusal(totals: dict[str, int], common: int, processes: int) -> str:
    smallest = {name: total // common * processes for name, total in totals.items()}
    factors = [factor for factor in (common // processes, common // processes + 1) if factor]
    if len(set(totals.values())) == 1:
        sizes = _one_of(factor * sum(smallest.values()) for factor in factors)
        changes = f'total_batch_size={sizes}'
    else:
        changes = _one_of(
            ' '.join(
                f'total_batch_size.{name}={factor * number}' for name, number in smallest.items()
            )
            for factor in factors
        )
    each = '' if '' in totals else f', {_by_name(totals)},'
    return (
        f'{sum(totals.values())} images a step{each} cannot be shared equally by {processes} '
        f'processes: start {_one_of(_divisors(common))}, or change the recipe by --cfg-options '
        f'{changes}'
    )


def _by_name(totals: dict[str, int], divisor: int = 1) -> str:
    return ', '.join(
        f'{number // divisor} of {name or "the data set"}' for name, number in totals.items()
    )


def _one_of(values: Iterable[Any]) -> str:
    *first, last = map(str, values)
    return f'{", ".join(first)} or {last}' if first else last


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
