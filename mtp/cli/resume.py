"""Which checkpoint training goes on from."""
import os
from pathlib import Path

from mmengine.config import Config

from mtp.machine import LAUNCHERS


def last_checkpoint(work_dir: str | Path) -> Path:
    """Return the newest complete checkpoint of a run, wherever its folder has been moved to.

    Raises:
        FileNotFoundError: there is none.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    if not pointer.is_file():
        raise FileNotFoundError(f'nothing to resume in {work_dir}: no checkpoint has been saved '
                                'there. Leave out --resume to start, or check --work-dir')
    return pointer.with_name(Path(pointer.read_text()).name)


def checkpoint_to_resume(cfg: Config, asked: str | None) -> Path | None:
    """Return the checkpoint that training goes on from, None to start.

    Processes that torchrun (``--max-restarts``) or SLURM (``--requeue``) has started again go on
    from the last checkpoint of their run, where it has saved one, whatever was asked for.

    Args:
        cfg: config of :func:`mtp.cli.launch.load_config`.
        asked: path of a checkpoint, ``'last'`` or None.

    Raises:
        FileNotFoundError: the last one is asked for, and there is none.
    """
    pointer = Path(cfg.work_dir) / 'last_checkpoint'
    restarts = max(int(os.environ.get(launcher.restarts, 0)) for launcher in LAUNCHERS.values())
    if asked == 'last' or (restarts and pointer.is_file()):
        return last_checkpoint(cfg.work_dir)
    if cfg.launcher != 'none':
        # Left by an earlier run in this folder: no restart may take it for its own.
        pointer.unlink(missing_ok=True)
    return asked and Path(asked)
