"""Speed of a run: figures in its log lines, and a trace of selected iterations."""

import time
from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook, IterTimerHook
from torch.profiler import ProfilerActivity, profile

from mtp.engine import flops
from mtp.engine.console_log import FILE_ONLY
from mtp.engine.hooks.deferred_log import is_log_step
from mtp.engine.loops import batches_of
from mtp.engine.runner import Runner
from mtp.fallback import reason_in_a_line
from mtp.registry import HOOKS


@HOOKS.register_module()
class ThroughputHook(IterTimerHook):
    """mmengine's ``IterTimerHook`` that also logs throughput.

    Each training log line gets ``images_per_s``, the images per second of all processes together,
    and ``data_share``, the share of time (0 to 1) that this process waited for data. On a GPU it
    also gets ``utilisation``: the operations of the training steps without recomputation, divided
    by those that the GPU could have done in bfloat16 matrix products, at the rate measured when
    training starts. All are means since the previous line, without validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._images, self._seconds, self._waited = 0, 0.0, 0.0
        # operations per image / operations per second of the GPU; 0 if unknown
        self._share_of_second = 0.0

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Add the time since the end of the last iteration to the waiting time."""
        self._waited += time.time() - self.t
        super().before_train_iter(runner, batch_idx, data_batch)
        if runner.iter == self.start_iter and torch.cuda.is_available() and is_main_process():
            self._share_of_second = _share_of_second(runner, batches_of(data_batch)[0])

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Count the images of the batch; at a log line, log the figures."""
        self._images += sum(len(batch['inputs']) for batch in batches_of(data_batch))
        self._seconds += time.time() - self.t
        if is_log_step(runner, batch_idx):
            speed = self._images / self._seconds
            logged = {
                'images_per_s': speed * get_world_size(),
                'data_share': self._waited / self._seconds,
            }
            if self._share_of_second:
                logged['utilisation'] = speed * self._share_of_second
            runner.message_hub.update_scalars(
                {f'train/{name}': value for name, value in logged.items()}
            )
            self._images, self._seconds, self._waited = 0, 0.0, 0.0
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_val(self, runner: Runner) -> None:
        """Restart the clock, so that validation does not count as waiting time."""
        self.t = time.time()


def _share_of_second(runner: Runner, batch: dict) -> float:
    model = runner.bare_model
    try:
        operations = flops.count_training_step(model, batch)
    except Exception as error:  # only the log needs the count
        runner.logger.info(
            'The log has no utilisation, since the operations of a step of this '
            f'model cannot be counted: {reason_in_a_line(error)}'
        )
        return 0.0
    rate = flops.matrix_rate(next(model.parameters()).device)
    runner.logger.info(
        f'{operations / len(batch["inputs"]) / 1e9:.0f} GFLOP an image; bfloat16 '
        f'matrix products run at {rate / 1e12:.0f} TFLOP/s',
        **FILE_ONLY,
    )
    return operations / len(batch['inputs']) / rate


@HOOKS.register_module()
class TraceHook(Hook):
    """Hook that writes a trace of training iterations to ``<work_dir>/trace_<rank>.json.gz``.

    chrome://tracing and https://ui.perfetto.dev display it. mmengine's ``ProfilerHook`` counts
    iterations from the start of the process, so a resumed run would trace the wrong ones.

    Args:
        start: index of the first traced iteration, from 0 over the whole run.
        stop: index of the iteration before which the trace ends.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._profile: profile | None = None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Start recording at the first traced iteration."""
        if self._profile is None and self.start <= runner.iter < self.stop:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.start()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Write the trace after the last traced iteration."""
        if runner.iter + 1 >= self.stop:
            self.after_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Write the trace if the run ends before ``stop``."""
        if self._profile is not None:
            self._profile.stop()
            path = Path(runner.work_dir) / f'trace_{get_rank()}.json.gz'
            self._profile.export_chrome_trace(str(path))
            self._profile = None
            runner.logger.info(f'Trace written to {path}')
