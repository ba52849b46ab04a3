"""Where a run's scalars, pictures and config go beside its log files."""

from typing import Any

from mmengine.config import Config
from mmengine.visualization import TensorboardVisBackend


class TensorBoardBackend(TensorboardVisBackend):
    """mmengine's ``TensorboardVisBackend`` with tags in groups, and the config as it was written.

    TensorBoard groups tags by ``/``: the loss ``sota.instance.loss_mask`` has the tag
    ``sota/instance/loss_mask``. Metrics have a ``/`` already; their classes may have a dot.
    """

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Record a scalar."""
        tag = name if '/' in name else name.replace('.', '/')
        super().add_scalar(tag, value, step, **kwargs)

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the text of the config."""
        # TensorBoard shows Markdown, in which indented lines are code
        text = ''.join(f'    {line}\n' for line in config.pretty_text.splitlines())
        self.experiment.add_text('config', text)
