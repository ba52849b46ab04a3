"""Progress bars on a terminal, in place of the lines per interval."""

import sys
from collections.abc import Sequence
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from tqdm import tqdm

from mtp.engine.console_log import write_beside_bars
from mtp.engine.hooks.deferred_log import is_log_step
from mtp.engine.runner import Runner
from mtp.registry import HOOKS


@HOOKS.register_module()
class ProgressBarsHook(Hook):
    """Hook that draws a bar of training, and one of each validation or test, on a terminal.

    Elsewhere it does nothing. The loss beside the bar is that of the last log line: it is not
    fetched from the device for the bar.
    """

    priority = 'VERY_LOW'  # after LoggerHook

    def __init__(self) -> None:
        self._training: tqdm | None = None
        self._evaluation: tqdm | None = None

    def before_run(self, runner: Runner) -> None:
        """Let bars take the place of lines, if this process writes to a terminal."""
        self._draws = is_main_process() and sys.stdout.isatty()
        if self._draws:
            runner.console.bars = True
            write_beside_bars(runner.logger)

    def before_train(self, runner: Runner) -> None:
        """Begin the bar of training, where a resumed run continues."""
        self._training = self._bar('train', runner.max_iters, initial=runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Advance the bar; at a log line, show the loss."""
        if self._training is None:
            return
        if is_log_step(runner, batch_idx) and 'train/loss' in runner.message_hub.log_scalars:
            loss = runner.message_hub.get_scalar('train/loss').current()
            self._training.set_postfix_str(f'loss {loss:.4g}', refresh=False)
        self._training.update()

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin the bar of a validation."""
        self._evaluation = self._bar('val', len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin the bar of a test."""
        self._evaluation = self._bar('test', len(runner.test_dataloader))

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | dict | None = None,
        mode: str = 'train',
    ) -> None:
        """Advance the bar of a validation or test; it ends with the last batch."""
        if self._evaluation is None:
            return
        self._evaluation.update()
        if self._evaluation.n >= self._evaluation.total:
            self._evaluation.close()

    def after_train(self, runner: Runner) -> None:
        """End the bar of training."""
        self.close()

    def close(self) -> None:
        """Leave the bars as they are, whatever has ended the run."""
        for bar in (self._evaluation, self._training):
            if bar is not None:
                bar.close()

    def _bar(self, what: str, total: int, initial: int = 0) -> tqdm | None:
        if not self._draws:
            return None
        return tqdm(
            total=total,
            initial=initial,
            desc=what,
            unit='step',
            dynamic_ncols=True,
            leave=what != 'val',
            file=sys.stdout,
        )
