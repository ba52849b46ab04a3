"""Read configs, override them by dotted keys, and check them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from mtp import resources
from mtp.cli.known_keys import find_type, keys_of
from mtp.cli.old_bases import hint, is_old_config, old_bases_accepted
from mtp.engine.runner import Runner
from mtp.evaluation import Submission
from mtp.old_names import new_config
from mtp.ops import mmcv_ext
from mtp.spelling import suggest


def read_config(path: str | Path) -> Config:
    """Read a config file; accept old names of configs and bases that have moved.

    Args:
        path: path of the file, or name of one of mtp's configs, such as
            ``pretrain/vit_b_rvsa_samrs``; a file that exists wins.

    Raises:
        FileNotFoundError: the config, or a file that it reads, does not exist.
        ValueError: the config is not valid Python, or mmengine cannot read it or its bases.
    """
    path = _find(Path(path))
    try:
        return _from_file(path)
    except SyntaxError as error:
        raise ValueError(f'{path} is not valid Python: {error}') from error
    except FileNotFoundError as error:  # a text config names its bases by their files
        near = hint(Path(error.filename)) if error.filename else ''
        raise FileNotFoundError(f'{path} cannot be read: {error}{near}') from error
    except RuntimeError as error:  # a ConfigParsingError, or text and pure-Python configs are mixed
        raise ValueError(f'{path} cannot be read: {error}{_hint(error)}') from error


def _find(path: Path) -> Path:
    """Return the file of a config, given its path or the name of one of mtp's.

    Raises:
        FileNotFoundError: there is none; the message suggests similar ones.
    """
    paths = [path, path.with_name(f'{path.name}.py')]
    for candidate in (*paths, *map(resources.packaged_config, paths)):
        if candidate.is_file() or is_old_config(candidate):
            return new_config(candidate)
    near = suggest(path.name, [file.name for file in path.parent.glob('*.py')]) or suggest(
        path.with_suffix('').as_posix(), resources.config_names()
    )
    raise FileNotFoundError(f'no config at {path}{near}')


def _from_file(path: Path) -> Config:
    try:
        return Config.fromfile(path)
    except ConfigParsingError as error:
        missing = _missing_base(error)
        if missing is None or not is_old_config(missing):
            raise
    with old_bases_accepted():
        return Config.fromfile(path)


def _missing_base(error: RuntimeError) -> Path | None:
    """Return the base that mmengine does not find, or None for another error."""
    path, not_found, _ = str(error).partition(' not found!')
    return Path(path) if not_found else None


def _hint(error: RuntimeError) -> str:
    missing = _missing_base(error)
    return hint(missing) if missing else ''


def default_work_dir(config: str | Path) -> Path:
    """Return the work directory of a config.

    ``configs/finetune/<task>/<data set>/<backbone>.py`` -> ``work_dirs/<task>/<data
    set>/<backbone>``; a config elsewhere gives ``work_dirs/<its name>``.
    """
    parts = Path(config).resolve().with_suffix('').parts
    for depth in reversed(range(len(parts))):
        if parts[depth] == 'configs':
            return Path('work_dirs', *parts[depth + 2 :])
    return Path('work_dirs', parts[-1])


def override(cfg: Config, options: Mapping[str, Any]) -> None:
    """Set values of a config by dotted keys; a number is an index into a list.

    A key must exist already, or be an argument of the ``type`` beside it (at the top level: of the
    runner). So a misspelt key is an error instead of an option without effect. If the ``type``
    accepts any ``**kwargs``, other keys are valid too, unless they are very similar to a known one.

    Raises:
        ValueError: a key is unknown; the message suggests similar ones.
    """
    for key in options:
        node, path = cfg, key.split('.')
        for depth, name in enumerate(path):
            type_ = options.get('.'.join([*path[:depth], 'type']))  # an option may change it too
            known, passes_on = keys_of(node, type_ if depth else Runner)
            if name not in known and (not passes_on or suggest(name, known, cutoff=0.8)):
                where = '.'.join(path[:depth]) or 'the config'
                raise ValueError(
                    f'--cfg-options {key}: {where} has no key {name!r}'
                    f'{suggest(name, known)}. It has: {", ".join(known) or "none"}'
                )
            if depth < len(path) - 1:
                node = node[int(name)] if isinstance(node, list) else node.get(name)
    cfg.merge_from_dict(dict(options))


def set_submission(cfg: Config, folder: str | None) -> None:
    """Set the folder for predictions of a test split whose labels only the benchmark's server has.

    Raises:
        ValueError: there is a folder for a data set that is evaluated locally, or none for one that
            is not.
    """
    writes = issubclass(cast(type, find_type(cfg.test_evaluator.type)), Submission)
    if writes and folder is None:
        raise ValueError(
            'the labels of this test split are kept by the server of its benchmark: '
            'give --submission DIR, and send in what is written there'
        )
    if folder is not None and not writes:
        raise ValueError(
            '--submission is for test splits whose labels are kept by a server, and '
            'this one is evaluated here: leave it out'
        )
    if writes:
        cfg.test_evaluator.out_dir = folder


def check_deterministic(cfg: Config) -> None:
    """Refuse operators that ignore ``randomness.deterministic``.

    Raises:
        ValueError: mmcv's compiled operators would run on a GPU.
    """
    deterministic = cfg.get('randomness', {}).get('deterministic')
    if deterministic and torch.cuda.is_available() and mmcv_ext.choice() == 'native':
        raise ValueError(
            "--deterministic: the gradients of mmcv's compiled operators are added in "
            'any order: set MTP_OPS=portable'
        )
