"""Training samples that could not be read: counted, listed, and an end to it."""

from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtp.data.unreadable_samples import KEY
from mtp.engine.hooks.bad_updates import sample_facts
from mtp.engine.hooks.deferred_log import add_to_log, is_log_step
from mtp.engine.loops import batches_of
from mtp.files import write_json
from mtp.registry import HOOKS

FILE = 'replaced_samples.json'
COUNT = 'train/replaced_samples'


class ReplacedSamplesError(RuntimeError):
    """So many images of the training data cannot be read that the run has ended."""


@HOOKS.register_module()
class ReplacedSamplesHook(Hook):
    """Reports the samples that others took the place of, and ends a run with many bad files.

    :class:`mtp.data.sample_seeds.SeededDataset` replaces a sample whose files cannot be read, and
    says so in the metainfo of the one that takes its place. At a log line, all processes count
    ``replaced_samples``, warn, and list the files in ``<work dir>/replaced_samples.json``. Count
    and list are part of each checkpoint, and go on from it.

    Args:
        at_least: number of bad files that never ends a run.
        share: share of the images of the training data above which bad files end a run.

    Raises:
        ReplacedSamplesError: at the log line after so many, on all processes.
    """

    # After DeferredLogHook, before LoggerHook and what saves checkpoints.
    priority = 'ABOVE_NORMAL'

    def __init__(self, at_least: int = 10, share: float = 0.001) -> None:
        self.at_least = at_least
        self.share = share
        self._news: list[tuple[int, str, str]] = []  # iteration, file, reason, since the last line

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Keep what was replaced; at a log line, report."""
        for batch in batches_of(data_batch):
            for sample in sample_facts(batch):
                for file, reason in sample.get(KEY, ()):
                    self._news.append((runner.iter + 1, file, reason))
        if is_log_step(runner, batch_idx):
            self._report(runner)
            self._end(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what was replaced since the last log line to the checkpoint's log."""
        self._report(runner)
        known = runner.message_hub.state_dict()
        for key, value in checkpoint['message_hub'].items():
            value.update({name: v for name, v in known[key].items() if name in (KEY, COUNT)})

    def after_train(self, runner: Runner) -> None:
        """Report on the samples since the last log line."""
        self._report(runner)
        self._end(runner)

    def _report(self, runner: Runner) -> None:
        """Tell of what was replaced since the last report; all processes call it together."""
        news = sorted(sum(all_gather_object(self._news), []))
        self._news = []
        if not news:
            return
        add_to_log(runner, COUNT, len(news))
        known = {file: dict(facts) for file, facts in _known(runner).items()}
        fresh = list(dict.fromkeys(file for _, file, _ in news if file not in known))
        for iteration, file, reason in news:
            facts = known.setdefault(file, dict(iteration=iteration, reason=reason, samples=0))
            facts['samples'] += 1
        runner.message_hub.update_info(KEY, known)
        path = Path(runner.work_dir) / FILE
        if is_main_process():
            number = int(runner.message_hub.get_scalar(COUNT).current())
            write_json(path, dict(replaced_samples=number, files=known))
        if fresh:
            runner.logger.warning(
                f'samples were replaced by others, since a file could not be read: '
                f'{_named(fresh, known)}. All are listed in {path}'
            )

    def _end(self, runner: Runner) -> None:
        known = _known(runner)
        most = max(self.at_least, int(self.share * len(runner.train_dataloader.dataset)))
        if len(known) > most:
            raise ReplacedSamplesError(
                f'{len(known)} files of the training data cannot be read, more than the {most} '
                'that are replaced (default_hooks.replaced_samples.at_least and .share): '
                f'{_named(list(known), known)}. All are listed in '
                f'{Path(runner.work_dir) / FILE}. Restore them, and go on with --resume auto'
            )


def _known(runner: Runner) -> dict[str, dict[str, Any]]:
    """Return the bad files of the run: path -> first iteration, reason, number of samples."""
    return runner.message_hub.runtime_info.get(KEY, {})


def _named(files: list[str], known: dict[str, dict[str, Any]], most: int = 20) -> str:
    more = f'; and {len(files) - most} more' if len(files) > most else ''
    return '; '.join(f'{file} ({known[file]["reason"]:.200})' for file in files[:most]) + more
