"""The learning rate's schedule, which follows the length of training."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtp.cli.config import read_config
from mtp.cli.config_check import names_in

LENGTHS = ('max_iters', 'max_epochs')
ENDLESS = 10**9  # mmengine's end of a scheduler that has none


def follow_length(cfg: Config, options: Collection[str]) -> str | None:
    """Scale the schedule to the length of training, where only the length was changed.

    That is where an option sets the length and none the schedule, or where a config file sets a
    shorter length than its bases and does not mention ``param_scheduler``. Schedulers that count in
    another unit, such as a warm-up in iterations of a training in epochs, stay as they are.

    Args:
        cfg: training config; its ``param_scheduler`` is changed in place.
        options: dotted keys that the user has set.

    Returns:
        str: line for the log; None if nothing changes.
    """
    train, schedulers = cfg.get('train_cfg') or {}, cfg.get('param_scheduler')
    key = next((key for key in LENGTHS if train.get(key)), None)
    if key is None or not isinstance(schedulers, list):
        return None
    if any(option.partition('.')[0] == 'param_scheduler' for option in options):
        return None
    scaled = [of for of in schedulers if of.get('by_epoch', True) == (key == 'max_epochs')]
    before = max(map(_end, scaled), default=0)
    if f'train_cfg.{key}' in options:
        before = max(before, (read_config(cfg.filename).get('train_cfg') or {}).get(key) or 0)
    elif before < train[key] or 'param_scheduler' in names_in(Path(cfg.filename)):
        return None
    if not scaled or before in (0, train[key]):
        return None
    for scheduler in scaled:
        _scale(scheduler, train[key], before)
    unit = key.removeprefix('max_')
    return f"The learning rate's schedule is scaled from {before} to {train[key]} {unit}"


def _end(scheduler: dict[str, Any]) -> int:
    """Return when a scheduler ends, as far as it tells; 0 where it does not."""
    if 'T_max' in scheduler:
        return scheduler.get('begin', 0) + scheduler['T_max']
    end = scheduler.get('end', ENDLESS)
    return end if end < ENDLESS else 0


def _scale(scheduler: dict[str, Any], new: int, old: int) -> None:
    def at(time: int) -> int:
        return round(time * new / old)

    begin = scheduler.get('begin', 0)
    if 'T_max' in scheduler:
        scheduler['T_max'] = max(1, at(begin + scheduler['T_max']) - at(begin))
    if 'milestones' in scheduler:
        scheduler['milestones'] = [max(1, at(time)) for time in scheduler['milestones']]
    if 'begin' in scheduler:
        scheduler['begin'] = at(begin)
    if scheduler.get('end', ENDLESS) < ENDLESS:
        scheduler['end'] = max(at(begin) + 1, at(scheduler['end']))
