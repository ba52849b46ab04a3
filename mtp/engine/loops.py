"""Training loops in which an iteration is one update, even with gradient accumulation.

Steps, schedules, checkpoints and logs then mean the same on one GPU and on many.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mtp.engine.lasting_loader import LastingLoader
from mtp.engine.memory import allocations_recorded, explain_shortage, write_snapshot
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.engine.resume_position import DueValidation, EndlessBatches, begin_after
from mtp.registry import LOOPS


class GroupedLoader:
    """Proxy of a loader that yields the batches of an update as one list.

    Args:
        loader: loader of one process.
        accumulation: number of batches in an update.

    Attributes:
        batch_size: number of images of this process in an update; None if the loader has a batch
            sampler.
    """

    def __init__(self, loader: DataLoader | LastingLoader, accumulation: int) -> None:
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


class _Accumulating(BaseLoop):
    """Mixin that adds gradient accumulation to a loop of mmengine.

    In an update of several batches, hooks get a list as ``data_batch``, and the mean over the
    batches as ``outputs``. An additional hook point, ``before_train_batch(runner, batch_idx)``,
    runs before every batch but the first.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        *args: Any,
        accumulation: int = 1,
        **kwargs: Any,
    ) -> None:
        self.accumulation = accumulation
        self._fits = False  # until a step has run
        super().__init__(runner, dataloader, *args, **kwargs)

    def run(self) -> torch.nn.Module:
        """Train; a resumed run first makes the validation that is due."""
        # After all other hooks: the one that saves the best checkpoint must know its folder.
        self.runner.register_hook(DueValidation(), priority='LOWEST')
        return super().run()

    @property
    def dataloader(self) -> DataLoader | LastingLoader | GroupedLoader:
        """Loader that outlasts its workers; with accumulation, a list of batches per update."""
        return self._dataloader

    @dataloader.setter
    def dataloader(self, loader: DataLoader) -> None:
        # set by mmengine's constructor, before it asks for the length
        lasting = LastingLoader(loader) if loader.num_workers else loader
        self._dataloader = (
            lasting if self.accumulation == 1 else GroupedLoader(lasting, self.accumulation)
        )

    def run_iter(self, *args: Any) -> None:
        """Run one update; the arguments are those of mmengine's loop.

        Raises:
            torch.cuda.OutOfMemoryError: the step does not fit. In the first step the message says
                what would fit. A snapshot of the memory is written to the work directory.
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
        # Outside the handler, the exception and the tensors that its frames hold are freed.
        raise torch.cuda.OutOfMemoryError(explain_shortage(self.runner, said))

    def _update(self, index: int, batches: Sequence[Any]) -> None:
        """Update the weights once with the mean gradient of several batches.

        Raises:
            ValueError: the optimiser wrapper is not that of mtp.
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
    """mmengine's ``IterBasedTrainLoop`` with gradient accumulation.

    Args:
        runner: runner of the training.
        dataloader: training loader, or its config.
        accumulation: number of batches in an update (:mod:`mtp.engine.batch_size` derives it).
        kwargs: arguments of ``IterBasedTrainLoop``: ``max_iters`` and ``val_interval``, in updates.
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
    """mmengine's ``EpochBasedTrainLoop`` with gradient accumulation.

    The last update of an epoch uses the remaining batches.

    Args:
        runner: runner of the training.
        dataloader: training loader, or its config.
        accumulation: number of batches in an update (:mod:`mtp.engine.batch_size` derives it).
        kwargs: arguments of ``EpochBasedTrainLoop``: ``max_epochs``, ``val_interval``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done = 0  # updates of the first epoch that were made before the interruption

    def run(self) -> torch.nn.Module:
        """Train; a resumed run continues within its epoch."""
        self._done = self._updates_done()
        return super().run()

    def run_epoch(self) -> None:
        """Run an epoch, or in a resumed run the rest of it."""
        done, self._done = self._done, 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        unread = begin_after(self.dataloader.batch_sampler, done * self.accumulation)
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
        """Return the number of updates that a resumed run has made in its epoch.

        If the length of an epoch has changed, with the batch size or the data, this is the same
        fraction of it.
        """
        length = len(self.dataloader)
        saved = self.runner.message_hub.runtime_info
        before = length
        if 'max_iters' in saved and 'max_epochs' in saved:
            before = saved['max_iters'] // saved['max_epochs']
        done = self._iter - self._epoch * before
        return done * length // before if 0 <= done <= before else 0


def batches_of(data_batch: Any) -> list[Any]:
    """Return the batches of an update, as hooks get them: one batch, or a list of several."""
    return data_batch if isinstance(data_batch, list) else [data_batch]


def _mean(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of the batches' log values, without waiting for the device."""
    values = torch.stack(
        [
            torch.stack([value.detach().reshape(()) for value in output.values()])
            for output in outputs
        ]
    )
    return dict(zip(outputs[0], values.mean(0)))
