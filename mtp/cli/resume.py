"""Choice of the checkpoint from which training resumes."""

import os
from pathlib import Path

from mmengine.config import Config

from mtp.cli.config import default_work_dir
from mtp.machine import LAUNCHERS
from mtp.old_names import old_config


def last_checkpoint(work_dir: str | Path) -> Path:
    """Return the last complete checkpoint of a run, even if its folder has been moved.

    Raises:
        FileNotFoundError: the run has no checkpoint.
    """
    pointer = _pointer(work_dir)
    if not pointer.is_file():
        raise FileNotFoundError(
            f'nothing to resume in {work_dir}: no checkpoint has been saved '
            'there. Leave out --resume to start, or check --work-dir'
        )
    return pointer.with_name(Path(pointer.read_text()).name)


def go_on_under_old_name(cfg: Config) -> str | None:
    """Resume in the folder that the run used before its config was renamed.

    Nothing changes if the work directory is not the config's default, or has a checkpoint.

    Args:
        cfg: config of :func:`mtp.cli.launch.load_config`; its ``work_dir`` is changed in place.

    Returns:
        str | None: line for the run's log; None if nothing changes.
    """
    config, work_dir = Path(cfg.filename), Path(cfg.work_dir)
    old = old_config(config)
    if old is None or work_dir != default_work_dir(config) or _pointer(work_dir).is_file():
        return None
    folder = default_work_dir(old)
    if not _pointer(folder).is_file():
        return None
    cfg.work_dir = str(folder)
    return f'The run goes on in {folder}, where it was saved when its config was called {old.name}'


def checkpoint_to_resume(cfg: Config, asked: str | None) -> Path | None:
    """Return the checkpoint from which training resumes, or None to start from the beginning.

    Processes restarted by torchrun (``--max-restarts``) or SLURM (``--requeue``) resume from the
    last checkpoint of their run if there is one, whatever ``asked`` says.

    Args:
        cfg: config of :func:`mtp.cli.launch.load_config`.
        asked: path of a checkpoint, ``'last'`` or None.

    Raises:
        FileNotFoundError: ``asked`` is ``'last'``, and the run has no checkpoint.
    """
    pointer = _pointer(cfg.work_dir)
    restarts = max(int(os.environ.get(launcher.restarts, 0)) for launcher in LAUNCHERS.values())
    if asked == 'last' or (restarts and pointer.is_file()):
        return last_checkpoint(cfg.work_dir)
    if cfg.launcher != 'none':
        # Left by an earlier run in this folder; a restart must not resume from it.
        pointer.unlink(missing_ok=True)
    return Path(asked) if asked else None


def _pointer(work_dir: str | Path) -> Path:
    """Return the file in which mmengine names the last checkpoint."""
    return Path(work_dir) / 'last_checkpoint'
