"""Refuse the names and keys of a config file that nothing reads."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.config import get_installed_path
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from mtp.cli.known_keys import arguments, find_type, is_known
from mtp.engine.runner import Runner
from mtp.spelling import suggest

# What mtp and mmengine read at the top level beside the runner's arguments.
READ = ('custom_imports', 'images_per_gpu', 'total_batch_size', 'auto_scale_lr', 'tracker')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# What mmengine takes out of a loader's dict.
OF_LOADERS = (*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch')
NEAR = 0.8  # similarity from which a name that would do something else is taken for misspelt
NOT_FOUND = re.compile(r'Failed to import (?P<name>\w+) from (?P<module>[\w.]+)')


def check_config(cfg: Config) -> None:
    """Refuse a config with misspelt names, or classes that do not exist.

    Raises:
        ValueError: a top-level name that no config file reads is nearly an argument of the runner,
            a dict with a ``type`` has a key that the class does not take, or an imported class does
            not exist; the message gives file and key.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtp')):
        try:
            _check_names(cfg)
            for loader in LOADERS:
                _check_keys(cfg.get(loader), loader, list(OF_LOADERS), 'DataLoader')
            for name in cfg:
                _check_types(cfg[name], name)
        except ImportError as error:
            found = NOT_FOUND.search(str(error))
            near = _similar(f'{found["module"]}.{found["name"]}') if found else ''
            raise ValueError(f'{cfg.filename}: {error}{near}') from error
        except _WrongNameError as error:
            raise ValueError(f'{cfg.filename}: {error}') from error


class _WrongNameError(Exception):
    """A name or key that nothing reads."""


def _check_names(cfg: Config) -> None:
    known = [*list(inspect.signature(Runner).parameters), *READ]
    others = set(cfg).difference(known, getattr(cfg, '_imported_names', ()))
    unknown = sorted(name for name in others if suggest(name, known, cutoff=NEAR))
    if not unknown:
        return
    read = {name for path in _files(Path(cfg.filename)) for name in _names_read(path)}
    for name in unknown:
        if name not in read:
            raise _WrongNameError(f'nothing reads {name!r}{suggest(name, known, cutoff=NEAR)}')


def _check_types(node: Any, path: str) -> None:
    """Check the keys of all dicts with a ``type`` in a value of a config."""
    if isinstance(node, dict):
        built_by = find_type(type_ := node.get('type'))
        if built_by is None and isinstance(type_, str) and '.' in type_ and not is_known(type_):
            raise _WrongNameError(f'{path}: there is no {type_}{_similar(type_)}')
        if built_by is not None:
            names, passes_on = arguments(built_by)
            name = getattr(built_by, '__name__', str(built_by))
            _check_keys(node, path, names, name, passes_on)
    for key, value in _parts(node):
        _check_types(value, f'{path}.{key}')


def _check_keys(
    node: Any, path: str, names: list[str], built: str, passes_on: bool = False
) -> None:
    for key in node if isinstance(node, dict) else ():
        if key in (*names, 'type', '_scope_'):
            continue
        if not passes_on or suggest(key, names, cutoff=NEAR):
            near = suggest(key, names) or f'. It takes: {", ".join(names)}'
            raise _WrongNameError(f'{path}: {built} takes no {key!r}{near}')


def _parts(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _similar(full_name: str) -> str:
    """Return a suggestion for a class that a module does not have."""
    module, _, name = full_name.rpartition('.')
    return suggest(name, dir(sys.modules.get(module)))


def names_in(path: Path) -> set[str]:
    """Return the names that the statements of a config file assign or read."""
    return {node.id for node in ast.walk(_parse(path)) if isinstance(node, ast.Name)}


def _names_read(path: Path) -> set[str]:
    names = (node for node in ast.walk(_parse(path)) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Load)}


def _files(path: Path) -> Iterator[Path]:
    """Yield a config file and those that it inherits from, as far as they are Python."""
    if not path.is_file() or path.suffix != '.py':
        return
    yield path
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.With):
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom) and statement.module:
                    yield from _files(_base(path, statement.level, statement.module.split('.')))


def _base(path: Path, level: int, parts: list[str]) -> Path:
    """Return the file of a base, found as mmengine finds it."""
    if level:
        folder = path.resolve().parents[level - 1]
    else:
        folder, parts = Path(get_installed_path(parts[0])), parts[1:]
    return folder.joinpath(*parts[:-1], f'{parts[-1]}.py')


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))
