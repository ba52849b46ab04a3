"""Experiment trackers beside TensorBoard, by one key of the config: ``tracker = 'wandb'``."""

import importlib

from mmengine.config import Config
from mmengine.visualization import MLflowVisBackend, WandbVisBackend

from mtp.spelling import suggest

# Name, which is also that of the package -> config of mmengine's backend. MLflow refuses long
# values of parameters: the config goes there as a text alone.
TRACKERS = {
    'wandb': dict(type=WandbVisBackend),
    'mlflow': dict(type=MLflowVisBackend, tracked_config_keys=[]),
}


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
    cfg.visualizer.vis_backends = [*cfg.visualizer.vis_backends, TRACKERS[name]]
