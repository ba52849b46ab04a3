"""Experiment trackers beside TensorBoard, by one key of the config: ``tracker = 'wandb'``."""

import importlib
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.visualization import MLflowVisBackend, WandbVisBackend

from mtp.spelling import suggest


def _wandb(work_dir: Path) -> dict[str, Any]:
    return dict(type=WandbVisBackend)


def _mlflow(work_dir: Path) -> dict[str, Any]:
    # It refuses long values of parameters: the config goes there as a text alone.
    backend = dict(type=MLflowVisBackend, tracked_config_keys=[], exp_name=work_dir.name)
    if uri := os.environ.get('MLFLOW_TRACKING_URI'):
        return dict(backend, tracking_uri=uri)
    # mmengine's default, a folder of files, is refused by MLflow from 3 on. Logs need no copy
    # there: they are beside it.
    return dict(
        backend,
        artifact_suffix=(),
        tracking_uri=f'sqlite:///{work_dir / "mlflow.db"}',
        artifact_location=(work_dir / 'mlflow').as_uri(),
    )


# Name, which is also that of the package -> function from the work directory to the config of
# mmengine's backend.
TRACKERS = {'wandb': _wandb, 'mlflow': _mlflow}


def add_tracker(cfg: Config) -> None:
    """Add the backend of ``cfg.tracker``, if the config names one, to those of the visualizer.

    Raises:
        ValueError: there is no such tracker, or its package is not installed.
    """
    name = cfg.get('tracker')
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(
            f'tracker={name!r}{suggest(str(name), TRACKERS)}: it is one of {", ".join(TRACKERS)}, '
            'or None'
        )
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'tracker={name!r} needs a package that cannot be imported ({error}): '
            f'pip install {name}'
        ) from error
    backend = TRACKERS[name](Path(cfg.work_dir).absolute())
    cfg.visualizer.vis_backends = [*cfg.visualizer.vis_backends, backend]
