"""Preparation of any data set, resumable after an interruption."""

from pathlib import Path

from mtp.data.datasets import DATASETS
from mtp.data.label_files import read_json
from mtp.data.prepare.base import Report
from mtp.files import remove_unfinished, write_json

STAMP = 'prepared.json'


def prepare(name: str, src: Path, dst: Path, multi_scale: bool = False) -> Report:
    """Prepare a data set; continue where an earlier run stopped.

    Args:
        name: key of :data:`~mtp.data.datasets.DATASETS`.
        src: folder with the publisher's files, unpacked.
        dst: folder to write to: new, empty, or begun by the same preparation.
        multi_scale: whether to cut at several scales; only for data sets with ``multi_scale``.

    Raises:
        FileNotFoundError: ``src`` is missing or incomplete.
        FileExistsError: ``dst`` holds something else.
        ValueError: a file that all others depend on cannot be read, or ``multi_scale`` is set for a
            data set that is not cut.
    """
    if not src.is_dir():
        raise FileNotFoundError(f'no folder {src}')
    dataset = DATASETS[name]
    if multi_scale and not dataset.multi_scale:
        several = ', '.join(name for name, other in DATASETS.items() if other.multi_scale)
        raise ValueError(f'{name} has one scale only; data sets with several scales: {several}')
    options = dict(multi_scale=True) if multi_scale else {}
    _claim(dst, dict(dataset=name, **options))
    return dataset.prepare(src, dst, **options)


def _claim(dst: Path, request: dict) -> None:
    stamp = dst / STAMP
    if dst.is_dir() and any(path != stamp for path in dst.iterdir()):
        if not stamp.is_file() or read_json(stamp) != request:
            raise FileExistsError(
                f'{dst} holds something else than {request}: remove it, or choose another folder'
            )
        remove_unfinished(dst)
    write_json(stamp, request)
