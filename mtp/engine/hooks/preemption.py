"""Checkpoints between those of the interval: by the clock, and when a signal asks to stop."""

import threading
from datetime import timedelta
from functools import partial

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtp import signals
from mtp.engine.agreement import StepAgreement
from mtp.engine.hooks.checkpoint import VerifiedCheckpointHook
from mtp.engine.store import connect, gather, tell
from mtp.registry import HOOKS


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves every few minutes, and once more when SIGTERM, SIGUSR1 or Ctrl-C asks to stop.

    All processes agree on the step through the store of the process group; see
    :class:`mtp.engine.agreement.StepAgreement`. A run that stops ends with
    :data:`mtp.signals.EXIT_CODE` once the checkpoint has been verified. A checkpoint is begun
    before each validation, in which a run can then stop at once. Nothing is done where the config's
    ``checkpoint`` is another than :class:`mtp.engine.VerifiedCheckpointHook`.

    Args:
        minutes: minutes between checkpoints, those of the interval included; None for no others.
        deadline: seconds from the signal until the process ends, checkpoint or none; torchrun kills
            after 30 s.
    """

    # After all that changes weights, schedules or the log, and after the checkpoint of the
    # interval.
    priority = 'LOWEST'

    def __init__(self, minutes: float | None = 15, deadline: float = 25) -> None:
        self.minutes = minutes
        self.deadline = deadline
        self._agreement: StepAgreement | None = None
        self._timer: threading.Timer | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin to watch the clock and the signals."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, VerifiedCheckpointHook)]
        if not hooks:
            return
        (self._checkpoint,) = hooks
        self._saved = self._checkpoint.saved
        self._store = connect(f'preemption/{runner.experiment_name}')
        self._agreement = StepAgreement(
            self._store,
            get_rank(),
            get_world_size(),
            runner.iter,
            self.minutes and self.minutes * 60,
            partial(self._leave, runner),
        )
        signals.current().attach(partial(self._stop, runner, self._agreement))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Save, or save and stop, where all processes have agreed on this step.

        Raises:
            Stopped: the run is to stop, and its checkpoint has been verified.
        """
        if self._agreement is None:
            return
        if self._checkpoint.saved != self._saved:
            self._saved = self._checkpoint.saved
            self._agreement.note_saved()
        kind = self._agreement.pass_step(runner.iter + 1)
        if kind is None:
            return
        self._checkpoint.save_unscheduled(runner, runner.iter + 1)
        if kind == 'stop':
            self._wait_for_all(runner)
            runner.logger.info(self._last_words(runner))
            self.close()
            runner.visualizer.close()
            raise signals.Stopped

    def before_val(self, runner: Runner) -> None:
        """Begin a checkpoint, unless it has been: a run may stop in the validation."""
        if self._agreement is not None:
            self._checkpoint.save_unscheduled(runner, runner.iter)
            self._agreement.validating(True)

    def after_val(self, runner: Runner) -> None:
        """Go back to training."""
        if self._agreement is not None:
            self._agreement.validating(False)

    def after_train(self, runner: Runner) -> None:
        """Stop watching: all is saved."""
        self.close()

    def close(self) -> None:
        """Stop watching, after which a signal ends the process at once."""
        if self._agreement is not None:
            signals.current().attach(None)
            self._agreement.close()
            self._agreement = None
        if self._timer is not None:
            self._timer.cancel()

    def _stop(self, runner: Runner, agreement: StepAgreement, name: str) -> None:
        """Ask all processes to stop; end this one when they do not within the deadline."""
        runner.logger.info(f'{name}: a checkpoint is saved at the end of this step')
        self._timer = threading.Timer(self.deadline, self._leave, (runner, False))
        self._timer.daemon = True
        self._timer.start()
        agreement.stop()  # from now on the run may end, which cancels the timer

    def _leave(self, runner: Runner, written: bool) -> None:
        """End the process from a thread: in a validation, or since no checkpoint is possible."""
        if written:
            self._wait_for_all(runner)
            signals.current().leave(self._last_words(runner))
        signals.current().leave(
            f'{signals.current().name or "Stopped"}: no checkpoint of the last step could be '
            f'written, since another process is gone or it took longer than {self.deadline:g} s: '
            f'exit code {signals.EXIT_CODE}, go on from the one before it with --resume auto'
        )

    def _wait_for_all(self, runner: Runner) -> None:
        """Wait until the main process has verified the checkpoint: who starts may kill the rest."""
        runner.writer.wait()
        timeout = timedelta(seconds=self.deadline)
        tell(self._store, 'written', True, timeout)
        gather(self._store, 'ending', True, timeout)

    def _last_words(self, runner: Runner) -> str:
        return (
            f'Stopped by {signals.current().name or "another process"} after '
            f'{self._checkpoint.saved} iterations, all of which are saved: exit code '
            f'{signals.EXIT_CODE}, go on with --resume auto'
        )
