"""Capture of training steps as CUDA graphs."""

from mmengine.hooks import Hook
from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner
from torch import nn

from mtp.engine.captured_steps import CapturedSteps
from mtp.engine.cuda_graphs import CUDAGraphs
from mtp.engine.loops import _Accumulating
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.engine.parallel import ReplicatedModel, ShardedModel, unwrap
from mtp.fallback import fall_back
from mtp.registry import HOOKS

# Models whose steps have shapes that follow from the batch alone, and their subclasses.
CAPTURED = ('MultiTaskPretrainer', 'ImageClassifier', 'EncoderDecoder')
# First steps that run as usual. DDP rebuilds the buckets of its gradients in its first ones, and
# FSDP2 makes its streams and learns the order of its parts in the first.
WARMUP = {ReplicatedModel: 11, ShardedModel: 2}


@HOOKS.register_module()
class CaptureHook(Hook):
    """Hook that captures whole training steps, forward to update, and replays them.

    See :class:`mtp.engine.captured_steps.CapturedSteps`.

    Args:
        mode: ``'auto'``: on a GPU, with one process, for the models that are known to be fit for
            it; ``'on'``: wherever it can be tried, with a warning where it cannot; ``'off'``.

    Raises:
        ValueError: ``mode`` has another value.
    """

    def __init__(self, mode: str = 'auto') -> None:
        if mode not in ('auto', 'on', 'off'):
            raise ValueError(f"mode={mode!r}: must be 'auto', 'on' or 'off'")
        self.mode = mode
        self.steps: CapturedSteps | None = None

    def before_train(self, runner: Runner) -> None:
        """Replace the model's step."""
        if self.mode == 'off':
            return
        reason = reason_against(runner)
        if reason:
            if self.mode == 'on':
                fall_back('Capture of training steps', 'the host launches each kernel', reason)
            return
        if self.mode == 'auto' and not _is_known(runner.model):
            return
        loop = runner.train_loop
        self.steps = CapturedSteps(
            runner.model,
            runner.optim_wrapper,
            CUDAGraphs(),
            accumulates=isinstance(loop, _Accumulating) and loop.accumulation > 1,
            warmup=sum(n for kind, n in WARMUP.items() if isinstance(runner.model, kind)),
            log=runner.logger.info,
        )
        runner.model.train_step = self.steps

    def after_train(self, runner: Runner) -> None:
        """Log how many steps were replayed, and give the model its own step back."""
        if self.steps is not None:
            runner.logger.info(
                f'{self.steps.replays:,} training steps were replayed, {self.steps.others:,} not'
            )
            del runner.model.train_step


def reason_against(runner: Runner) -> str | None:
    """Return why the steps of a training cannot be captured; None if they can."""
    model, wrapper = runner.model, runner.optim_wrapper
    if not next(model.parameters()).is_cuda:
        return 'there is no GPU'
    if not isinstance(wrapper, MixedPrecisionOptimWrapper) or not getattr(
        wrapper.optimizer, '_step_supports_amp_scaling', False
    ):
        return (
            'the update waits for the device: give an optimiser with fused=True and '
            'optim_wrapper.type=mtp.engine.MixedPrecisionOptimWrapper'
        )
    others = [
        scheduler.param_name
        for scheduler in _flat(runner.param_schedulers)
        if scheduler.param_name != 'lr'
    ]
    if others:
        return f'a schedule of {others[0]}: only learning rates are on the device'
    return None


def _flat(schedulers: object) -> list[_ParamScheduler]:
    if isinstance(schedulers, dict):
        return [each for of_one in schedulers.values() for each in of_one]
    return list(schedulers or [])  # type: ignore[call-overload]  # what mmengine built


def _is_known(model: nn.Module) -> bool:
    """Return whether ``'auto'`` captures a model: one process, and a known class."""
    bare = unwrap(model)
    return bare is model and any(cls.__name__ in CAPTURED for cls in type(bare).__mro__)
