"""Training loops whose iterations are updates, however many batches the gradients are summed over.

Steps, schedules, checkpoints and logs then mean the same on one GPU as on many.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import Tensor
from torch.utils.data import DataLoader

from mtp.data.sample_seeds import SeededSampler, SkippingBatchSampler
from mtp.engine.memory import allocations_recorded, explain_shortage, write_snapshot
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.registry import LOOPS


class GroupedLoader:
    """A loader that gives the batches of a whole update at a time; otherwise the loader itself.

    Args:
        loader: the loader of one process.
        accumulation: number of batches in an update.

    Attributes:
        batch_size: images of this process in an update; None beside a batch sampler.
    """

    def __init__(self, loader: DataLoader, accumulation: int) -> None:
        self.loader = loader
        self.accumulation = accumulation
        self.batch_size = loader.batch_size and loader.batch_size * accumulation

    def __iter__(self) -> Iterator[list[Any]]:
        batches = iter(self.loader)
        while group := list(islice(batches, self.accumulation)):
            yield group

    def __len__(self) -> int:
        return -(-len(self.loader) // self.accumulation)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def begin_after(loader: DataLoader | GroupedLoader, batches: int) -> bool:
    """Let the next pass over a loader, and no later one, begin after some batches, unread.

    Args:
        loader: loader of one process.
        batches: number of batches, of what the loader gives to one update each.

    Returns:
        bool: False for a loader of a kind that cannot, which then begins at its first batch.
    """
    batches *= getattr(loader, 'accumulation', 1)
    sampler: Any = loader.batch_sampler
    if isinstance(sampler, SkippingBatchSampler):
        sampler.skip(batches)
    elif isinstance(getattr(sampler, 'sampler', None), SeededSampler):
        sampler.sampler.skip(batches * sampler.batch_size)
    else:
        return False
    return True


class EndlessBatches(_InfiniteDataloaderIterator):
    """mmengine's iterator over a loader again and again, which reads nothing of what it skips."""

    def skip_iter(self, num_iters: int) -> None:
        """Begin after ``num_iters`` updates, however many epochs of the loader they make."""
        sampler: Any = getattr(self._dataloader.batch_sampler, 'sampler', None)
        endless = isinstance(sampler, SeededSampler) and sampler.is_endless
        epoch, batches = (0, num_iters) if endless else divmod(num_iters, len(self._dataloader))
        if not begin_after(self._dataloader, batches):
            super().skip_iter(num_iters)
        elif epoch:
            self._epoch = epoch
            sampler.set_epoch(epoch)


class _DueValidation(Hook):
    """Makes the validation that a resumed run's checkpoint was saved before.

    mmengine goes on with the next step: the log would lack it, and the choice of the best
    checkpoint too. A checkpoint that is saved again as the best one so far knows that it has been
    validated.
    """

    KEY = 'last_validation'  # (a name that begins with val would stand in the log)

    def before_train(self, runner: Runner) -> None:
        loop, validated = runner.train_loop, runner.message_hub.runtime_info.get(self.KEY)
        if runner.val_loop and loop.iter and loop.iter != validated and loop.validation_is_due:
            runner.val_loop.run()

    def before_val(self, runner: Runner) -> None:
        runner.message_hub.update_info(self.KEY, runner.iter)


class _Accumulating:
    """What both loops add to mmengine's.

    In an update of more than one batch the hooks get a list as ``data_batch``, and the mean over
    the batches as ``outputs``. ``before_train_batch(runner, batch_idx)`` is a further hook, called
    before every batch but the first.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, *args, accumulation: int = 1, **kwargs
    ) -> None:
        self.accumulation = accumulation
        self._fits = False  # until a step has run
        super().__init__(runner, dataloader, *args, **kwargs)

    def run(self) -> torch.nn.Module:
        """Train; a resumed run first makes the validation that is due."""
        # after all others: what saves the best checkpoint has to know where to
        self.runner.register_hook(_DueValidation(), priority='LOWEST')
        return super().run()

    @property
    def dataloader(self) -> DataLoader | GroupedLoader:
        """The loader, which gives the batches of an update together where there are several."""
        return self._dataloader

    @dataloader.setter
    def dataloader(self, loader: DataLoader) -> None:
        # set by mmengine's constructor, before it asks for the length
        self._dataloader = (
            loader if self.accumulation == 1 else GroupedLoader(loader, self.accumulation)
        )

    def run_iter(self, *args) -> None:
        """Make one update; the arguments are those of mmengine's loop.

        Raises:
            torch.cuda.OutOfMemoryError: for the first one it says what would fit; a snapshot of the
                memory is in the work directory.
        """
        try:
            with nullcontext() if self._fits else allocations_recorded():
                if self.accumulation == 1:
                    super().run_iter(*args)
                else:
                    self._update(args[0] if len(args) > 1 else self._iter, args[-1])
            self._fits = True
            return
        except torch.cuda.OutOfMemoryError as error:
            write_snapshot(self.runner)
            if self._fits:
                raise
            said = str(error)
        # The exception is gone, and with it the tensors that its frames kept.
        raise torch.cuda.OutOfMemoryError(explain_shortage(self.runner, said))

    def _update(self, index: int, batches: Sequence[Any]) -> None:
        """Make one update of the weights, with the mean gradient of some batches.

        Raises:
            ValueError: the wrapper of the optimiser is another than mtp's.
        """
        wrapper = self.runner.optim_wrapper
        if not isinstance(wrapper, MixedPrecisionOptimWrapper):
            raise ValueError(
                f'an update of several batches needs optim_wrapper.type='
                f'mtp.engine.MixedPrecisionOptimWrapper, not {type(wrapper).__name__}:'
                ' set it, or leave out --images-per-gpu'
            )
        self.runner.call_hook('before_train_iter', batch_idx=index, data_batch=batches)
        wrapper.start_update(len(batches))
        outputs = []
        for number, batch in enumerate(batches):
            if number:
                self.runner.call_hook('before_train_batch', batch_idx=number)
            outputs.append(self.runner.model.train_step(batch, optim_wrapper=wrapper))
        self.runner.call_hook(
            'after_train_iter', batch_idx=index, data_batch=batches, outputs=_mean(outputs)
        )
        self._iter += 1


@LOOPS.register_module()
class AccumulatingIterLoop(_Accumulating, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``, with updates of several batches.

    Args:
        runner: the runner.
        dataloader: the loader, or its config.
        accumulation: number of batches in an update (:mod:`mtp.engine.batch_size` derives it).
        kwargs: of ``IterBasedTrainLoop``: ``max_iters`` and ``val_interval``, in updates.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = EndlessBatches(self.dataloader)

    @property
    def validation_is_due(self) -> bool:
        """Whether an uninterrupted run validates between the last step and the next one."""
        self._decide_current_val_interval()
        return self._iter >= self.val_begin and (
            self._iter % self.val_interval == 0 or self._iter == self._max_iters
        )


@LOOPS.register_module()
class AccumulatingEpochLoop(_Accumulating, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, with updates of several batches.

    The last update of an epoch has the batches that are left.

    Args:
        runner: the runner.
        dataloader: the loader, or its config.
        accumulation: number of batches in an update (:mod:`mtp.engine.batch_size` derives it).
        kwargs: of ``EpochBasedTrainLoop``: ``max_epochs``, ``val_interval``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done = 0  # updates of the first epoch that the run before has made

    def run(self) -> torch.nn.Module:
        """Train; a resumed run goes on at its place within the epoch."""
        self._done = self._updates_done()
        return super().run()

    def run_epoch(self) -> None:
        """Run an epoch, or what is left of it in a resumed run."""
        done, self._done = self._done, 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        unread = begin_after(self.dataloader, done)
        batches = iter(self.dataloader) if unread else islice(self.dataloader, done, None)
        for index, batch in enumerate(batches, done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    @property
    def validation_is_due(self) -> bool:
        """Whether an uninterrupted run validates between the last step and the next one."""
        self._decide_current_val_interval()
        return (
            not self._done
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )

    def _updates_done(self) -> int:
        """Return the updates that a resumed run has made of its epoch, 0 at the epoch's start.

        In epochs of another length, after a change of batch size or data, it is the same share.
        """
        length = len(self.dataloader)
        saved = self.runner.message_hub.runtime_info
        before = length
        if 'max_iters' in saved and 'max_epochs' in saved:
            before = saved['max_iters'] // saved['max_epochs']
        done = self._iter - self._epoch * before
        return done * length // before if 0 <= done <= before else 0


def _mean(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of what several batches logged, without waiting for the device."""
    values = torch.stack(
        [
            torch.stack([value.detach().reshape(()) for value in output.values()])
            for output in outputs
        ]
    )
    return dict(zip(outputs[0], values.mean(0)))
