"""A captured step repeats what the device did: what differs between steps lies in its memory.

Without a GPU the recording is a function that is called again (:class:`Repeat`).
"""

import copy
from contextlib import nullcontext
from importlib import import_module

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from mtp.engine import MixedPrecisionOptimWrapper, captured_steps
from mtp.engine.captured_steps import CapturedSteps
from mtp.engine.hooks.capture import _is_known
from mtp.engine.learning_rates import DeviceRates
from mtp.fallback import FallbackError
from mtp.ops.triton.roi_align_rotated import cut
from mtp.recipes.shrink import shrink
from mtp.sample_fields import pack_batch
from tests.models import small
from tests.models.small import build_model
from tests.test_finetune_configs import ROOT, build, make_sample

DATASETS = dict(a=dict(num_classes=2), b=dict(num_classes=3))
BACKBONE = dict(small.TINY_RVSA, drop_path_rate=0.5)
RATES = (2**-10, 2**-11, 2**-9)  # exact in float32


class Repeat:
    """Recorder without a GPU.

    Args:
        model: model that is trained; needed for ``wrong``.
        wrong: what is added to the first parameter in each repetition.
    """

    def __init__(self, model=None, wrong=0.0):
        self.model, self.wrong = model, wrong
        self.functions = []

    def apart(self):
        return nullcontext()

    def record(self, function):
        function()
        self.functions.append(function)

        def replay():
            if self.wrong:
                with torch.no_grad():
                    next(self.model.parameters()).add_(self.wrong)
            function()

        return replay

    def report(self):
        return f'{len(self.functions)} repetitions'


def make_batch(number, more=0, packed=True):
    """Batch of two data sets; the boxes, their number and the seeds depend on the number.

    Args:
        number: number of the batch.
        more: number of further objects in each image.
        packed: whether it is joined; else lists, of which the samples' metainfo is no tensor.
    """
    generator = torch.Generator().manual_seed(number)
    samples = []
    for place, name in enumerate('aabb'):
        starts = torch.randint(0, 40, (1 + more + (number + place) % 3, 2), generator=generator)
        found = [(0, (x, y, x + 8 + number % 8, y + 12)) for x, y in starts.tolist()]
        image, sample = small.make_sample(name, objects=found, seed=4 * number + place)
        sample.set_metainfo(dict(sample_seed=4 * number + place, img_path=f'{number}.png'))
        samples.append(dict(inputs=image, data_samples=sample))
    if packed:
        return pack_batch(samples)
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def train(accumulation, captured, updates=3, backbone=None, packed=True):
    """Train a small model; return its weights, what was logged, and the steps."""
    model = build_model(DATASETS, backbone=backbone).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    wrapper = MixedPrecisionOptimWrapper(optimizer, clip_grad=dict(max_norm=5.0))
    lines, logged = [], []
    steps = model.train_step
    if captured:
        steps = CapturedSteps(model, wrapper, Repeat(), accumulation > 1, 0, lines.append)
    for update in range(updates):
        optimizer.param_groups[0]['lr'] = RATES[update]
        wrapper.start_update(accumulation)
        for number in range(accumulation):
            torch.manual_seed(update * accumulation + number)
            batch = make_batch(update * accumulation + number, packed=packed)
            logged.append(steps(batch, optim_wrapper=wrapper))
        logged[-1] = dict(logged[-1], norm=wrapper.grad_norm)
        assert not wrapper.skipped and wrapper.outcome.tolist() == [0, 0, 0]
    return model, logged, steps, lines


@pytest.mark.parametrize(('accumulation', 'packed'), [(1, False), (2, True)])
def test_captured_steps_train_as_others_do(accumulation, packed):
    expected, log, *_ = train(accumulation, captured=False, packed=packed)
    model, found, steps, lines = train(accumulation, captured=True, packed=packed)
    for one, other in zip(found, log, strict=True):  # also those of long ago
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-7)
    assert steps.replays == accumulation * len(RATES) and steps.others == 0
    compared = [line for line in lines if line.startswith('Compared')]
    assert len(compared) == 2 * accumulation  # each kind of step twice


@pytest.fixture
def opaque(monkeypatch):
    """Hide what the twins of kernels compute, which depends on the boxes; the kernels do not."""
    # by name: the package has functions of the modules' names
    names = ('roi_align_levels', 'horizontal_nms', 'rotated_boxes')
    levels_of, nms, boxes = (import_module(f'mtp.ops.{name}') for name in names)
    pool, pool_backward = (
        levels_of.roi_align_levels_torch,
        levels_of.roi_align_levels_backward_torch,
    )

    class Pool(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rois, levels, height, width, scales, ratio, *features):
            ctx.save_for_backward(rois, levels)
            ctx.rest = len(features[0]), [n for f in features for n in f.shape[2:]], scales, ratio
            with _disable_current_modes():
                return pool(features, rois, levels, height, width, scales, ratio)

        @staticmethod
        def backward(ctx, grad):
            images, sizes, *_ = ctx.rest
            shapes = [(images, grad.shape[1], *size) for size in zip(sizes[::2], sizes[1::2])]
            with _disable_current_modes():
                flat = pool_backward(grad, *ctx.saved_tensors, *ctx.rest)
                return *(None,) * 6, *cut(flat, shapes)

    def hidden(function):
        def run(*args):
            with _disable_current_modes():
                return function(*args)

        return run

    monkeypatch.setattr(
        levels_of,
        'roi_align_levels_torch',
        lambda features, *rest: Pool.apply(*rest, *features),
    )
    for module, name in (
        (levels_of, '_check'),  # of values, on a CPU alone
        (nms, 'kept_horizontal_torch'),
        (boxes, 'box_iou_rotated_torch'),
    ):
        monkeypatch.setattr(module, name, hidden(getattr(module, name)))


class Operations(TorchDispatchMode):
    """Records the operators, with shapes and types of tensors and all other arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        described = tree_map_only(
            torch.Tensor,
            lambda t: ('tensor', tuple(t.shape), t.dtype),
            (args, kwargs),
        )
        if not str(func).startswith('profiler.'):  # marks of the optimiser for a profiler
            self.seen.append((str(func), described))
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ('accumulation', 'backbone'), [(1, BACKBONE), (1, dict(BACKBONE, with_cp=True)), (2, None)]
)
def test_two_steps_do_the_same_in_the_same_memory(accumulation, backbone, opaque):
    """Other images, objects, seeds and rates, drop path among what is drawn."""
    model, _, steps, _ = train(accumulation, captured=True, updates=1, backbone=backbone)
    updates = [
        [make_batch(update * accumulation + number) for number in range(accumulation)]
        for update in (1, 2, 3)
    ]
    assert_same(model, steps, updates)


def assert_same(model, steps, updates):
    """Make updates, of which the last two must do the same; the first ones are verified."""
    wrapper = steps._wrapper
    seen, places = [], []
    for update, batches in enumerate(updates):
        wrapper.optimizer.param_groups[0]['lr'] = RATES[update % 3]
        wrapper.start_update(len(batches))
        with Operations() as operations:
            for number, batch in enumerate(batches):
                torch.manual_seed(update + number)
                steps(batch, optim_wrapper=wrapper)
        seen.append(operations.seen)
        states = [value for state in wrapper.optimizer.state.values() for value in state.values()]
        static = [t for kind in steps._kinds.values() for t in kind.batch._tensors]
        places.append([t.data_ptr() for t in (*model.parameters(), *states, *static)])
    one, other = seen[-2:]
    assert len(one) > 500
    first = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)
    assert first is None, [str(of_step[first])[:300] for of_step in (one, other)]
    assert len(one) == len(other) and places[-2] == places[-1]


@pytest.mark.parametrize(
    'recipe', ['classification/eurosat', 'segmentation/loveda', 'change_detection/levir']
)
def test_two_steps_of_finetuning_do_the_same(recipe):
    """Ignored pixels are others in each batch."""
    cfg = Config.fromfile(ROOT / recipe / 'vit_b_rvsa.py')
    shrink(cfg, 64)
    model = build(cfg, 'cpu').train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    steps = CapturedSteps(model, wrapper, Repeat(), False, 0, print)
    assert _is_known(model)
    updates = []
    for number in range(4):
        samples = [make_sample(recipe.split('/')[0], cfg, 2 * number + i) for i in range(2)]
        for _, sample in samples:
            if 'gt_sem_seg' in sample:
                sample.gt_sem_seg.data[:, : 4 * number] = 255
        images, samples = map(list, zip(*samples))
        updates.append([dict(inputs=images, data_samples=samples)])
    assert_same(model, steps, updates)


@pytest.fixture
def of_two(monkeypatch):
    """Let a process take itself for one of two; return the flags that it sends."""
    flags = []
    monkeypatch.setattr(captured_steps, 'get_world_size', lambda: 2)
    monkeypatch.setattr(captured_steps, 'all_reduce', lambda flag, op: flags.append(float(flag)))
    return flags


def test_one_of_several_processes_captures_a_later_kind_at_its_second_step(of_two):
    """The comparison sends data, for which the other process would have to compare too."""
    batches = [make_batch(number, more=3 * (number > 1)) for number in range(5)]
    models = [build_model(DATASETS).train() for _ in range(2)]
    for model in models:
        optimizer = torch.optim.AdamW(model.parameters(), lr=2**-10, fused=True)
        wrapper = MixedPrecisionOptimWrapper(optimizer, clip_grad=dict(max_norm=5.0))
        step = model.train_step
        if model is models[0]:
            steps = step = CapturedSteps(model, wrapper, Repeat(), False, 0, print)
        for number, batch in enumerate(batches):
            torch.manual_seed(number)
            step(batch, optim_wrapper=wrapper)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-5, atol=1e-7)
    assert len(steps._kinds) == 2 and (steps.replays, steps.others) == (4, 1) and of_two == [0, 0]
    assert steps._wrapper._inner_count == len(batches)


def test_all_processes_hear_that_one_cannot_capture(of_two, monkeypatch):
    told = []
    monkeypatch.setattr(captured_steps, 'fall_back', lambda *what: told.append(what))

    class Refused(Repeat):
        def record(self, function):
            raise RuntimeError('operation not permitted')

    model = build_model(DATASETS).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    wrapper = MixedPrecisionOptimWrapper(optimizer)
    steps = CapturedSteps(model, wrapper, Refused(), False, 0, print)
    assert steps(make_batch(0), wrapper)['loss'].isfinite() and steps.others == 1
    ((_, _, reason),) = told
    assert of_two == [1] and 'operation not permitted' in str(reason)


def test_a_parameter_in_other_memory_is_captured_again():
    model, _, steps, _ = train(1, captured=True, updates=1)
    (kind,) = steps._kinds.values()
    parameter = next(model.parameters())
    parameter.data = parameter.data.clone()
    before = parameter.data.clone()
    steps(make_batch(1), optim_wrapper=steps._wrapper)
    assert kind not in steps._kinds.values() and not torch.equal(parameter, before)


def test_a_copy_of_the_model_makes_its_own_steps():
    model = build_model(DATASETS)
    wrapper = MixedPrecisionOptimWrapper(torch.optim.AdamW(model.parameters(), fused=True))
    model.train_step = CapturedSteps(model, wrapper, Repeat(), False, 0, print)
    other = copy.deepcopy(model)
    assert other.train_step.__self__ is other and other.train_step.__name__ == 'train_step'


def test_torch_lets_the_optimiser_be_captured(monkeypatch):
    """Its check refuses groups that are not capturable, with which it warns otherwise."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = torch.optim.AdamW([parameter], lr=2**-3, fused=True)
    rates = DeviceRates(optimizer, torch.device('cpu'))
    rates.refresh()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    with pytest.raises(RuntimeError, match='capturable is False'):
        optimizer.step()
    with rates.in_use():
        optimizer.step()
    assert torch.allclose(parameter, torch.full((2,), 1 - 2**-3 * 1.01), atol=1e-6)
    (group,) = optimizer.param_groups
    assert group['lr'] == 2**-3 and group['capturable'] is False


def test_a_replay_that_computes_something_else_is_refused():
    model = build_model(DATASETS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    wrapper = MixedPrecisionOptimWrapper(optimizer, clip_grad=dict(max_norm=5.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps = CapturedSteps(model, wrapper, Repeat(model, wrong=0.1), False, 0, print)
    with pytest.raises(FallbackError, match='a replay differs by'):
        steps(make_batch(0), optim_wrapper=wrapper)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
