"""From what a data set's owner distributes to what its config reads."""
import json
from collections.abc import Callable
from pathlib import Path

from mtp.data.prepare import change_detection as change
from mtp.data.prepare import classification, segmentation
from mtp.data.prepare import horizontal_detection as horizontal
from mtp.data.prepare import rotated_detection as rotated
from mtp.data.prepare.base import Report
from mtp.files import remove_unfinished, write_json

__all__ = ['PREPARE', 'Report', 'prepare']

# Name of a data set -> function of its owner's files and the folder to write to.
PREPARE: dict[str, Callable[..., Report]] = {
    **classification.PREPARE, **horizontal.PREPARE, **rotated.PREPARE, **segmentation.PREPARE,
    **change.PREPARE}

STAMP = 'prepared.json'


def prepare(name: str, src: Path, dst: Path, multi_scale: bool = False) -> Report:
    """Prepare a data set; go on where an earlier run stopped.

    Args:
        name: key of :data:`PREPARE`.
        src: what its owner distributes, unpacked.
        dst: folder to write to: new, empty, or begun by the same preparation.
        multi_scale: cut at three scales; only for those of ``rotated.TILED``.

    Raises:
        FileNotFoundError: ``src`` is missing, or part of what it should hold.
        FileExistsError: ``dst`` holds something else.
        ValueError: a file that all others depend on cannot be read; ``multi_scale`` of a set that
            is not cut.
    """
    if not src.is_dir():
        raise FileNotFoundError(f'no folder {src}')
    if multi_scale and name not in rotated.TILED:
        raise ValueError(f'{name} has one scale only; several have {", ".join(rotated.TILED)}')
    options = dict(multi_scale=True) if multi_scale else {}
    _claim(dst, dict(dataset=name, **options))
    return PREPARE[name](src, dst, **options)


def _claim(dst: Path, request: dict) -> None:
    stamp = dst / STAMP
    if dst.is_dir() and any(path != stamp for path in dst.iterdir()):
        if not stamp.is_file() or json.loads(stamp.read_text()) != request:
            raise FileExistsError(f'{dst} holds something else than {request}: remove it, or '
                                  'choose another folder')
        remove_unfinished(dst)
    write_json(stamp, request)
