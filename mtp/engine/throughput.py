"""How fast a run is: numbers in its log lines, and a trace of chosen iterations."""
import time
from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook, IterTimerHook
from mmengine.runner import Runner
from torch.profiler import ProfilerActivity, profile

from mtp.engine.logging import is_log_step
from mtp.registry import HOOKS


@HOOKS.register_module()
class ThroughputHook(IterTimerHook):
    """mmengine's ``IterTimerHook``, which also logs what a user compares runs by.

    Each log line of training gets ``images_per_s``, images a second of all processes together, and
    ``data_share``, the part of the time (0 to 1) that this process waited for data. Both are means
    since the line before, without validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._images, self._seconds, self._waited = 0, 0.0, 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None
                          ) -> None:
        """Add the time since the last iteration ended to the waiting time."""
        self._waited += time.time() - self.t
        super().before_train_iter(runner, batch_idx, data_batch)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Count the images of the batch, and log at a log line."""
        self._images += len(data_batch['inputs']) * get_world_size()
        self._seconds += time.time() - self.t
        if is_log_step(runner, batch_idx):
            runner.message_hub.update_scalar('train/images_per_s', self._images / self._seconds)
            runner.message_hub.update_scalar('train/data_share', self._waited / self._seconds)
            self._images, self._seconds, self._waited = 0, 0.0, 0.0
        super().after_train_iter(runner, batch_idx, data_batch, outputs)


@HOOKS.register_module()
class TraceHook(Hook):
    """Writes a trace of some training iterations to ``<work_dir>/trace_<rank>.json.gz``.

    chrome://tracing and https://ui.perfetto.dev show it. mmengine's ``ProfilerHook`` counts from
    where the process starts, and a resumed run would miss the iterations that are asked for.

    Args:
        start: first iteration of the trace, counted from 0 over the whole run.
        stop: iteration before which it ends.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._profile: profile | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None
                          ) -> None:
        """Start to record."""
        if self._profile is None and self.start <= runner.iter < self.stop:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Write what was recorded after the last of the iterations."""
        if runner.iter + 1 >= self.stop:
            self.after_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Write what was recorded where the run ends before ``stop``."""
        if self._profile is not None:
            self._profile.stop()
            path = Path(runner.work_dir) / f'trace_{get_rank()}.json.gz'
            self._profile.export_chrome_trace(str(path))
            self._profile = None
            runner.logger.info(f'Trace written to {path}')
