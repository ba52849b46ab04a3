"""Where a resumed run goes on: at its batch, unread what was read, and with its validation."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator

from mtp.data.sample_seeds import SeededSampler, SkippingBatchSampler


def begin_after(batch_sampler: Any, batches: int) -> bool:
    """Let the next pass over a loader, and no later one, begin after some batches, unread.

    Args:
        batch_sampler: batch sampler of the loader.
        batches: number of batches to skip.

    Returns:
        bool: False if the loader cannot do this; it then begins at its first batch. Loaders that
        :class:`mtp.engine.Runner` builds can.
    """
    if isinstance(batch_sampler, SkippingBatchSampler):
        batch_sampler.skip(batches)
    elif isinstance(getattr(batch_sampler, 'sampler', None), SeededSampler):
        batch_sampler.sampler.skip(batches * batch_sampler.batch_size)
    else:
        return False
    return True


class EndlessBatches(_InfiniteDataloaderIterator):
    """mmengine's iterator that repeats a loader; it skips batches without reading them."""

    def skip_iter(self, num_iters: int) -> None:
        """Begin after ``num_iters`` updates, in whichever epoch of the loader that is."""
        loader = self._dataloader
        sampler: Any = getattr(loader.batch_sampler, 'sampler', None)
        endless = isinstance(sampler, SeededSampler) and sampler.is_endless
        epoch, updates = (0, num_iters) if endless else divmod(num_iters, len(loader))
        batches = updates * getattr(loader, 'accumulation', 1)  # of a GroupedLoader
        if not begin_after(loader.batch_sampler, batches):
            super().skip_iter(num_iters)
        elif epoch:
            self._epoch = epoch
            sampler.set_epoch(epoch)


class DueValidation(Hook):
    """Hook that makes up for a validation that the resumed checkpoint was saved before.

    mmengine goes on with the next step, so that the validation is missing from the log and from
    the choice of the best checkpoint. A checkpoint that was saved again after its validation, as
    the best one so far, is not validated again.
    """

    KEY = 'last_validation'  # a name that begins with 'val' would appear in the log line

    def before_train(self, runner: Runner) -> None:
        """Validate if an uninterrupted run would have validated at this point."""
        loop, validated = runner.train_loop, runner.message_hub.runtime_info.get(self.KEY)
        if runner.val_loop and loop.iter and loop.iter != validated and loop.validation_is_due:
            runner.val_loop.run()

    def before_val(self, runner: Runner) -> None:
        """Record the iteration of the validation, which checkpoints then hold."""
        runner.message_hub.update_info(self.KEY, runner.iter)
