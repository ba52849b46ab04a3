"""Checkpoints that are verified before they take the place of older ones."""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mtp.engine.checkpoints import remove, write_pointer
from mtp.registry import HOOKS

_BEST = re.compile(r'best_[^/\\]+\.pth')
_UNSCHEDULED = re.compile(r'iter_\d+\.pth')


@HOOKS.register_module()
class VerifiedCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, which writes in the background and checks what it has written.

    The step waits until the checkpoint is in host memory. When it has been written and verified,
    ``last_checkpoint`` names it, and then the older ones go that are no longer to be kept. When it
    could not be written the next step ends the run. What a checkpoint that is resumed names for
    removal is removed by its name in the run's own folder, and only if it looks like one.

    Attributes:
        saved: iterations that were finished when the last checkpoint was begun; None before.
    """

    saved: int | None = None
    _unscheduled: str | None = None

    def before_train(self, runner: Runner) -> None:
        """As in mmengine; what a checkpoint that is resumed says is taken with care."""
        info = runner.message_hub.runtime_info
        self._outdated = self._trimmed(info)
        super().before_train(runner)
        if self.save_best:
            self._set_best({key: self._own_best(path) for key, path in self._best().items()})
        name = info.get('unscheduled_ckpt')
        self._unscheduled = name if _is_name(name, _UNSCHEDULED) else None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """End the run when a checkpoint could not be written.

        Raises:
            CheckpointError: it could not.
        """
        runner.writer.check()

    def after_train(self, runner: Runner) -> None:
        """Wait until the last checkpoint has been verified; then as in mmengine."""
        runner.writer.wait()
        super().after_train(runner)

    def save_unscheduled(self, runner: Runner, iteration: int) -> None:
        """Save a checkpoint between those of the interval, which the next one replaces.

        Args:
            runner: the runner.
            iteration: number of finished iterations.
        """
        if self.saved == iteration:
            return
        self._outdated += [self._unscheduled] if self._unscheduled else []
        self._unscheduled = name = f'iter_{iteration}.pth'
        runner.message_hub.update_info('unscheduled_ckpt', name)
        self._save(runner, name, dict(epoch=runner.epoch, iter=iteration))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        name = self.filename_tmpl.format(step)
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self._outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._outdated += [self._unscheduled] if self._unscheduled else []
        self._unscheduled = None
        runner.message_hub.update_info('unscheduled_ckpt', None)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._save(runner, name, meta)

    def _save(self, runner: Runner, name: str, meta: dict[str, Any]) -> None:
        """Begin to write a checkpoint; once it is verified the pointer moves and old ones go."""
        self.saved = meta['iter']
        with runner.saving_in_background():
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                self.save_optimizer,
                self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        outdated, self._outdated = [old for old in self._outdated if old != name], []
        if is_main_process():
            out_dir = Path(self.out_dir)
            runner.writer.submit(partial(_replace, Path(runner.work_dir), out_dir / name, outdated))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        before = self._best()
        # mmengine removes the old one before the new one is there.
        self._set_best(dict.fromkeys(before))
        with runner.saving_in_background():
            super()._save_best_checkpoint(runner, metrics)
        after = self._best()
        self._set_best({key: after[key] or before[key] for key in before})
        replaced = [before[key] for key in before if after[key] and after[key] != before[key]]
        if is_main_process():
            names = [PurePath(path).name for path in replaced if path]
            runner.writer.submit(partial(_remove_all, Path(self.out_dir), names))

    def _best(self) -> dict[str, str | None]:
        """Return figure -> path of the best checkpoint by it, None before there is one."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}  # "auto" gets its name from the first figures
        return {key: self.best_ckpt_path_dict.get(key) for key in self.key_indicators}

    def _set_best(self, best: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            (self.best_ckpt_path,) = best.values()
        else:
            self.best_ckpt_path_dict = best

    def _own_best(self, path: object) -> str | None:
        """Return the file in this run's folder that has the name of one in a checkpoint."""
        name = PurePath(path).name if isinstance(path, str) else ''
        return str(Path(self.out_dir) / name) if _is_name(name, _BEST) else None

    def _trimmed(self, info: dict[str, Any]) -> list[str]:
        """Shorten the list of kept checkpoints in a hub; return the names that are left out."""
        kept = info.get('keep_ckpt_ids')
        if kept is None or self.max_keep_ckpts <= 0:
            return []
        kept = [step for step in kept if type(step) is int] if isinstance(kept, list) else []
        info['keep_ckpt_ids'] = kept[-self.max_keep_ckpts :]
        return [self.filename_tmpl.format(step) for step in kept[: -self.max_keep_ckpts]]


def _is_name(name: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


def _replace(work_dir: Path, path: Path, outdated: Iterable[str]) -> None:
    write_pointer(work_dir, path)
    _remove_all(path.parent, outdated)


def _remove_all(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        remove(folder / name)
