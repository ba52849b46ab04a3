"""Old names of config bases, for imports in users' configs."""

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from mmengine.config import Config

from mtp.old_names import CONFIGS, new_config, renamed
from mtp.spelling import suggest


@contextmanager
def old_bases_accepted() -> Iterator[None]:
    """Accept old names of bases in ``with read_base():``, each with a warning.

    mmengine has no extension point between parsing an import and looking for the file.
    """
    parse, base_modules = Config._parse_lazy_import, Config._get_base_modules
    files: list[str] = []

    def parse_file(filename: str) -> tuple:
        files.append(filename)
        result = parse(filename)
        files.pop()
        return result

    def base_modules_of(nodes: list[ast.stmt]) -> list[str]:
        for node in nodes:
            for statement in node.body if isinstance(node, ast.With) else ():
                if isinstance(statement, ast.ImportFrom):
                    _import_new_name(statement, os.path.dirname(os.path.abspath(files[-1])))
        return base_modules(nodes)

    with (
        patch.object(Config, '_parse_lazy_import', staticmethod(parse_file)),
        patch.object(Config, '_get_base_modules', staticmethod(base_modules_of)),
    ):
        yield


def is_old_config(missing: Path) -> bool:
    """Return whether a missing config or base has moved to a file that exists."""
    new = renamed(missing, CONFIGS)
    return new is not None and new.is_file()


def hint(missing: Path) -> str:
    """Return the end of an error message that tells which base to import instead.

    Args:
        missing: path of the missing base, below a folder ``_base_`` or elsewhere.
    """
    new = renamed(missing, CONFIGS)
    if new is not None:
        return f'. This base is {new} now: import that one within `with read_base():`'
    missing = Path(os.path.abspath(missing))
    folder = next((folder for folder in missing.parents if folder.name == '_base_'), missing.parent)
    known = [path.relative_to(folder).as_posix() for path in folder.rglob('*.py')]
    return suggest(missing.relative_to(folder).as_posix(), sorted(known))


def _import_new_name(node: ast.ImportFrom, folder: str) -> None:
    """Change a relative import of an old base in place; ``folder`` is that of the config."""
    if not node.level or node.module is None:
        return
    old = Path(folder, *['..'] * (node.level - 1), f'{node.module.replace(".", "/")}.py')
    new = new_config(old)
    if new != old:
        parts = Path(os.path.relpath(new, folder)).with_suffix('').parts
        node.level = parts.count('..') + 1
        node.module = '.'.join(part for part in parts if part != '..')
