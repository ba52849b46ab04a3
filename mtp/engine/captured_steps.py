"""Training steps that are captured whole, forward to update, and replayed from static batches.

A replay repeats what the device did, with the same memory: it launches a step's some thousand
kernels at once, and runs no Python. Whatever differs between two steps must therefore lie in the
memory that it reads: batches (:class:`mtp.engine.static_batch.StaticBatch`), learning rates
(:class:`mtp.engine.learning_rates.DeviceRates`), and the state of torch's generator, which replays
read from the device.
"""

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from unittest.mock import patch

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtp.engine.cuda_graphs import Recorder
from mtp.engine.learning_rates import DeviceRates
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.engine.parallel import unwrap
from mtp.engine.static_batch import StaticBatch, signature
from mtp.fallback import fall_back

MOST_KINDS = 24  # of steps: six rungs, each with and without update, and the first of an update
VERIFIED_USES = 2
UNCAPTURED_RUNS = 3
# A replay may differ by this many times what uncaptured runs differ among themselves, as atomic
# additions in changing order do; but by these relative differences in any case.
TIMES, LEAST = 4, {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}


class _Kind:
    """Steps of one shape and place in an update.

    Attributes:
        batch: batch that they read.
        replay: what repeats a step on the device; None until it is recorded.
        uses: number of steps so far.
        names: names of the logged values.
    """

    def __init__(self, batch: StaticBatch) -> None:
        self.batch = batch
        self.replay: Callable[[], None] | None = None
        self.uses = 0
        self.names: list[str] = []
        self._values: Tensor | None = None
        self._skipped: Tensor | None = None
        self._has_norm = False

    def keep(
        self, logged: dict[str, Tensor], wrapper: MixedPrecisionOptimWrapper, updates: bool
    ) -> None:
        """Copy what a step leaves for the host to the same memory each time."""
        values = [value.detach().float().reshape(1) for value in logged.values()]
        if updates:
            assert wrapper.outcome is not None and wrapper.skipped is not None
            self._has_norm = wrapper.grad_norm is not None
            values += [] if wrapper.grad_norm is None else [wrapper.grad_norm.float().reshape(1)]
            values.append(wrapper.outcome)
            if self._skipped is None:
                self._skipped = torch.empty_like(wrapper.skipped)
            self._skipped.copy_(wrapper.skipped)
        joined = torch.cat(values)
        if self._values is None:
            self.names, self._values = list(logged), torch.empty_like(joined)
        self._values.copy_(joined)

    def give(self, wrapper: MixedPrecisionOptimWrapper) -> dict[str, Tensor]:
        """Return copies of the logged values, which later steps do not change.

        The wrapper gets those of an update.
        """
        assert self._values is not None
        values = self._values.clone()
        if self._skipped is not None:
            wrapper.skipped = self._skipped
            wrapper.outcome = values[-3:]
            wrapper.grad_norm = values[-4] if self._has_norm else None
        return dict(zip(self.names, values))

    def observed(self) -> Tensor:
        """Return losses and norm of the gradients of the last step."""
        assert self._values is not None
        chosen = [n for n, name in enumerate(self.names) if 'loss' in name]
        if self._has_norm:
            chosen.append(len(self.names))
        return torch.stack([self._values[number] for number in chosen])


class CapturedSteps:
    """Function that takes the place of a model's ``train_step``: captured, verified and replayed.

    A kind of step is captured when it first occurs. Its first two batches also run uncaptured,
    three times, from the same weights; where losses, norm of the gradients or batch norm's
    statistics differ more than these runs do among themselves, or capturing fails, all processes go
    on uncaptured. Then all is restored, and the step is made as usual.

    Several processes run together what sends data, so they compare in the first two steps alone. A
    kind that one of them meets later runs uncaptured once, and is captured then.

    Args:
        model: model, wrapped or not.
        wrapper: its optimiser's wrapper.
        recorder: maker of the replays.
        accumulates: whether an update may have several batches.
        warmup: number of first steps that are not captured.
        log: function that logs a line.

    Attributes:
        replays: number of steps that were replayed.
        others: number of steps that were not, since they came first or are of rare shapes.
    """

    def __init__(
        self,
        model: nn.Module,
        wrapper: MixedPrecisionOptimWrapper,
        recorder: Recorder,
        accumulates: bool,
        warmup: int,
        log: Callable[[str], None],
    ) -> None:
        self._model, self._wrapper, self._recorder = model, wrapper, recorder
        self._plain = cast(Callable[..., dict[str, Tensor]], model.train_step)
        self._preprocessor = cast(BaseDataPreprocessor, unwrap(model).data_preprocessor)
        # a preprocessor that packs batches is captured too
        self._pack = getattr(self._preprocessor, 'packed', None)
        self._parameters = list(model.parameters())
        self._places = self._places_of_parameters()
        self._device = self._parameters[0].device
        self._warmup, self._log = warmup, log
        self._kinds: dict[Hashable, _Kind] = {}
        self._made = 0  # steps that could be captured
        self._refused = False
        self.replays = self.others = 0
        wrapper.rates = DeviceRates(wrapper.optimizer, self._device)
        wrapper.keep_gradients = accumulates

    def __call__(self, data: Any, optim_wrapper: MixedPrecisionOptimWrapper) -> dict[str, Tensor]:
        """Make a training step, as ``train_step`` of the model does."""
        wrapper = self._wrapper
        assert optim_wrapper is wrapper and wrapper.rates is not None
        wrapper.rates.refresh()
        if self.others < self._warmup or self._refused:
            self.others += 1
            return self._plain(data, optim_wrapper=wrapper)
        data = self._preprocessor(data, True) if self._pack is None else self._pack(data)
        if (places := self._places_of_parameters()) != self._places:
            self._kinds.clear()  # a replay would change what no parameter is any more
            self._places = places
        batches = wrapper._accumulative_counts
        number = wrapper._inner_count % batches
        updates = number == batches - 1
        key = signature(data), batches, number == 0, updates
        if key not in self._kinds:
            if len(self._kinds) == MOST_KINDS:
                self.others += 1
                return self._step(data)
            self._kinds[key] = _Kind(StaticBatch(data, self._device))
        kind = self._kinds[key]
        kind.batch.fill(data)
        together = get_world_size() > 1
        if (self._made if together else kind.uses) < VERIFIED_USES:
            self._verify(kind, updates)
        elif kind.replay is None and kind.uses:
            try:
                self._record(kind, updates, _State(self._model, wrapper, self._device))
            except RuntimeError as error:  # the others' replays send the same data as this step
                self._refuse(error)
        kind.uses += 1
        self._made += 1
        if self._refused or kind.replay is None:
            self.others += 1
            return self._step(kind.batch.content)
        count = wrapper._inner_count
        kind.replay()
        wrapper._inner_count = count + 1
        self.replays += 1
        return kind.give(wrapper)

    def __deepcopy__(self, memo: dict) -> Callable[..., dict[str, Tensor]]:
        """Give a copy of the model its own step, which is not captured."""
        return copy.deepcopy(self._plain, memo)

    def _places_of_parameters(self) -> list[int]:
        """Return where the parameters lie, of a shard its own part."""
        local = (p.to_local() if isinstance(p, DTensor) else p for p in self._parameters)
        return [parameter.data_ptr() for parameter in local]

    def _step(self, data: Any) -> dict[str, Tensor]:
        """Make a step uncaptured, given data that are prepared unless that is captured too."""
        with self._prepared():
            return self._plain(data, optim_wrapper=self._wrapper)

    def _run(self, kind: _Kind, updates: bool) -> None:
        """Make what is captured."""
        kind.keep(self._step(kind.batch.content), self._wrapper, updates)

    def _prepared(self) -> Any:
        if self._pack is not None:
            return nullcontext()
        return patch.object(self._preprocessor, 'forward', lambda data, training=False: data)

    def _verify(self, kind: _Kind, updates: bool) -> None:
        """Compare a replay of a kind of step with uncaptured runs; record it, unless it is."""
        reason: BaseException | str | None = None
        try:
            before = _State(self._model, self._wrapper, self._device)
            with self._recorder.apart():
                uncaptured = [
                    self._observe(kind, before, lambda: self._run(kind, updates))
                    for _ in range(UNCAPTURED_RUNS)
                ]
            if kind.replay is None:
                self._record(kind, updates, before)
            assert kind.replay is not None
            replayed = self._observe(kind, before, kind.replay)
            reason = self._reason_against(replayed, uncaptured)
        except RuntimeError as error:  # those of CUDA and of missing memory among them
            reason = error
        if self._anywhere(reason is not None):
            self._refuse(reason or 'another process refused it')

    def _record(self, kind: _Kind, updates: bool, before: '_State') -> None:
        """Capture a kind of step; restore what its Python changes."""
        with before.restored():
            kind.replay = self._recorder.record(lambda: self._run(kind, updates))
        self._log(f'Training steps are captured: {self._recorder.report()}')

    def _refuse(self, reason: BaseException | str) -> None:
        self._refused = True
        self._kinds.clear()
        fall_back(
            'Capture of training steps as CUDA graphs', 'the host launches each kernel', reason
        )

    def _reason_against(self, replayed: list[Tensor], uncaptured: list[list[Tensor]]) -> str | None:
        among = max(_difference(uncaptured[i], uncaptured[i - 1]) for i in range(UNCAPTURED_RUNS))
        found = min(_difference(replayed, run) for run in uncaptured)
        line = (
            f'a replay differs by {found:.1e}, relative, from uncaptured steps, which differ by '
            f'{among:.1e}, in losses, norm of the gradients or statistics of batch norm'
        )
        if found <= max(TIMES * among, LEAST[self._dtype]):
            self._log(f'Compared: {line}')
            return None
        return line

    @property
    def _dtype(self) -> torch.dtype:
        return self._wrapper.dtype if self._wrapper.enabled else torch.float32

    def _observe(self, kind: _Kind, before: '_State', run: Callable[[], None]) -> list[Tensor]:
        """Run a step; return losses, norm and statistics; restore everything."""
        with before.restored():
            run()
            return [kind.observed(), *before.statistics()]

    def _anywhere(self, flag: bool) -> bool:
        """Return whether a flag is set on any process."""
        if get_world_size() == 1:
            return flag
        flags = torch.tensor(float(flag), device=self._device)
        all_reduce(flags, 'max')
        return bool(flags)


class _State:
    """State that a training step changes, to go back to.

    Args:
        model: model, wrapped or not.
        wrapper: its optimiser's wrapper.
        device: device of the model.
    """

    def __init__(
        self, model: nn.Module, wrapper: MixedPrecisionOptimWrapper, device: torch.device
    ) -> None:
        self._wrapper, self._device = wrapper, device
        self._parameters = list(model.parameters())
        self._buffers = list(model.buffers())
        self._copies = {
            id(tensor): tensor.detach().clone()
            for tensor in (*self._parameters, *self._buffers, *self._of_optimizer())
        }
        self._gradients = [None if p.grad is None else p.grad.clone() for p in self._parameters]
        self._inner_count = wrapper._inner_count
        self._of_wrapper = wrapper.outcome, wrapper.skipped, wrapper.grad_norm
        self._random = torch.get_rng_state()
        self._random_cuda = torch.cuda.get_rng_state(device) if device.type == 'cuda' else None

    def statistics(self) -> list[Tensor]:
        """Return copies of the buffers that hold other than whole numbers."""
        return [buffer.clone() for buffer in self._buffers if buffer.is_floating_point()]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Go back to this state afterwards, in the same memory."""
        try:
            yield
        finally:
            self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        wrapper = self._wrapper
        for tensor in (*self._parameters, *self._buffers, *self._of_optimizer()):
            saved = self._copies.get(id(tensor))
            # the state of an optimiser that has not begun is 0
            tensor.zero_() if saved is None else tensor.copy_(saved)
        for parameter, gradient in zip(self._parameters, self._gradients):
            if gradient is not None and parameter.grad is not None:
                parameter.grad.copy_(gradient)
            elif wrapper.keep_gradients and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = gradient
        wrapper._inner_count = self._inner_count
        wrapper.outcome, wrapper.skipped, wrapper.grad_norm = self._of_wrapper
        torch.set_rng_state(self._random)
        if self._random_cuda is not None:
            torch.cuda.set_rng_state(self._random_cuda, self._device)

    def _of_optimizer(self) -> list[Tensor]:
        states = self._wrapper.optimizer.state.values()
        found = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        scale = self._wrapper.loss_scale
        return found if scale is None else [*found, scale.value, scale.steps]


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest relative difference of two runs' tensors; of the first, of each number."""
    (a, *more_a), (b, *more_b) = one, other
    pairs = [*zip(a, b), *((x, y) for x, y in zip(more_a, more_b) if x.numel())]
    return max(
        torch.stack([_relative(x.double(), y.double()) for x, y in pairs]).tolist(), default=0.0
    )


def _relative(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest difference by the largest size; infinite where one alone is not finite."""
    equal = (a == b) | a.isnan() & b.isnan()
    apart = torch.where(equal, 0, (a - b).abs()).nan_to_num(nan=torch.inf).amax()
    size = torch.where(a.isfinite(), a.abs(), 0).amax()
    return apart / size.clamp(min=torch.finfo(torch.float32).tiny)
