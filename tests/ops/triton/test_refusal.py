"""Where Triton refuses a kernel the twin takes over, with the twin's results to the bit."""

import builtins

import pytest
import torch
import triton

from mtp import fallback
from mtp.models.backbones import build_backbone
from mtp.ops import dispatch, trials
from tests.models.small import build_model, losses_of, make_sample

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# on a GPU some of torch's own gradients, and so the twins', differ from run to run
TOLERANCE = {} if DEVICE == 'cuda' else {'rtol': 0, 'atol': 0}
LEARNED = [
    'adaptive_pools',
    'bias_relu',
    'dcnv3',
    'grouped_batch_norm',
    'relative_position_attention',
    'resize_maps',
    'roi_align_levels',
    'roi_align_rotated',
    'rotated_window_attention',
    'share_maps',
    'sigmoid_focal_loss',
    'window_operands',
]
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')


@pytest.fixture(autouse=True)
def _kernels_that_may_fall_back(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')
    monkeypatch.setattr(fallback, '_fallen', {})
    monkeypatch.delenv('MTP_STRICT', raising=False)


class Refusal:
    """Launches of kernels with ``part`` in their name fail, and are counted."""

    def __init__(self, monkeypatch, part, error=None):
        if DEVICE == 'cuda':
            owner, name = triton.runtime.jit.JITFunction, 'run'
        else:
            owner, name = triton.runtime.interpreter.GridExecutor, '__call__'
        launch, self.tried = getattr(owner, name), 0
        error = error or triton.runtime.errors.OutOfResources(2, 1, 'shared memory')

        def refuse(kernel, *args, **kwargs):
            if part not in kernel.fn.__name__:
                return launch(kernel, *args, **kwargs)
            self.tried += 1
            raise error

        monkeypatch.setattr(owner, name, refuse)


def results(function, tensors):
    """Output and gradients for a fixed cotangent."""
    out = function(*tensors)
    if not out.requires_grad:
        return [out]
    cotangent = torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape)
    learned = [tensor for tensor in tensors if tensor.requires_grad]
    return [out, *torch.autograd.grad(out, learned, cotangent.to(out.dtype))]


def results_of_twin(monkeypatch, function, tensors):
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, 'SETTING', 'torch')
        return results(function, tensors)


def call_of(name, dtype=torch.float32):
    if name == 'relative_position_attention':
        dtype = torch.bfloat16  # no kernel takes float32
    return trials.calls(DEVICE, dtype)[name]


def assert_equal(results, expected, name=''):
    # without kernels, torch's own batch norm runs, which rounds otherwise than the twins of kernels
    tolerance = {'rtol': 0.02, 'atol': 0.02} if name == 'grouped_batch_norm' else TOLERANCE
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, **tolerance)


@pytest.mark.parametrize('name', list(trials.calls('cpu', torch.float32)))
def test_a_refused_operator_runs_its_twin(name, monkeypatch, caplog):
    function, tensors = call_of(name, torch.bfloat16)
    expected = results_of_twin(monkeypatch, function, tensors)
    refusal = Refusal(monkeypatch, 'kernel')
    for _ in range(2):
        assert_equal(results(function, tensors), expected, name)
    assert refusal.tried == 1  # nor was the backward kernel tried
    assert list(fallback.fallen()) == [name]
    assert caplog.text.count(f'{name} failed, from now on its form in torch runs') == 1


@pytest.mark.parametrize('name', LEARNED)
def test_a_refused_gradient_is_the_twins(name, monkeypatch):
    function, tensors = call_of(name)
    out = results(function, tensors)[0]
    expected = results_of_twin(monkeypatch, function, tensors)[1:]
    refusal = Refusal(monkeypatch, 'backward')
    for _ in range(2):
        assert_equal(results(function, tensors), [out, *expected], name)
    assert refusal.tried == 1 and list(fallback.fallen()) == [f'{name}_backward']


@pytest.mark.parametrize(
    'name', ['relative_position_attention', 'rotated_window_attention', 'roi_align_levels']
)
@pytest.mark.parametrize('kernels', ['kernel', 'backward'])
def test_compiled_code_falls_back_when_it_runs(name, kernels, monkeypatch):
    """Layouts too are those that the compiler was told of."""
    function, tensors = call_of(name)
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    before = results(compiled, tensors)
    expected = results_of_twin(monkeypatch, function, tensors)
    Refusal(monkeypatch, kernels)
    fallen = results(compiled, tensors)
    assert_equal(fallen[1:], expected[1:])
    assert_equal(fallen[:1], (before if kernels == 'backward' else expected)[:1])
    assert [out.stride() for out in fallen] == [out.stride() for out in before]
    assert len(fallback.fallen()) == 1


@pytest.mark.parametrize('name', ['dcnv3', 'rotated_window_attention'])
def test_a_refused_operator_under_autocast(name, monkeypatch):
    """As in training: activations in bfloat16, tables and masks in float32."""
    (function, tensors), (_, wide) = call_of(name, torch.bfloat16), call_of(name)
    narrow = 1
    tensors = [*tensors[:narrow], *wide[narrow:]]

    def step(*tensors):
        with torch.autocast(DEVICE, torch.bfloat16):
            return function(*tensors)

    expected = results_of_twin(monkeypatch, step, tensors)
    Refusal(monkeypatch, 'kernel')
    assert_equal(results(step, tensors), expected)


@pytest.mark.usefixtures('deterministic')
@pytest.mark.parametrize('name', LEARNED)
def test_deterministic_algorithms_take_no_kernel_with_atomic_additions(name, monkeypatch):
    function, tensors = call_of(name)
    expected = results_of_twin(monkeypatch, function, tensors)[1:]
    refusal = Refusal(monkeypatch, '_backward_kernel')
    assert_equal(results(function, tensors)[1:], expected, name)
    without_additions = name in (
        'adaptive_pools',
        'bias_relu',
        'grouped_batch_norm',
        'relative_position_attention',
        'resize_maps',
        'share_maps',
        'sigmoid_focal_loss',
        'window_operands',
    )
    assert bool(refusal.tried) == without_additions == bool(fallback.fallen())


def test_strict_mode_ends_the_run(monkeypatch):
    monkeypatch.setenv('MTP_STRICT', '1')
    Refusal(monkeypatch, 'kernel')
    with pytest.raises(fallback.FallbackError, match='^dcnv3: OutOfResources: out of resource'):
        results(*call_of('dcnv3'))


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory'),
        RuntimeError('CUDA error: an illegal memory access'),
        RuntimeError('Triton Error [CUDA]: an illegal memory access was encountered'),
    ],
)
def test_errors_of_the_gpu_are_no_refusals(error, monkeypatch):
    Refusal(monkeypatch, 'kernel', error)
    with pytest.raises(type(error), match=str(error)[:10]):
        results(*call_of('dcnv3'))
    assert not fallback.fallen()


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('PassManager::run failed'),
        RuntimeError('Failed to find C compiler.'),
        RuntimeError('Triton Error [CUDA]: device kernel image is invalid'),
        triton.runtime.errors.PTXASError('too old'),
        PermissionError('cache'),
    ],
)
def test_what_counts_as_a_refusal(error, monkeypatch):
    Refusal(monkeypatch, 'kernel', error)
    results(*call_of('sigmoid_focal_loss'))
    assert fallback.fallen() == {'sigmoid_focal_loss': fallback.reason_in_a_line(error)}


@pytest.mark.parametrize('compiled', [False, True])
def test_a_triton_that_cannot_be_imported(compiled, monkeypatch):
    function, tensors = call_of('sigmoid_focal_loss')
    expected = results_of_twin(monkeypatch, function, tensors)
    original = builtins.__import__

    def broken(name, *args):
        if name.startswith('triton.language'):
            raise ImportError('libtriton.so: undefined symbol')
        return original(name, *args)

    monkeypatch.setattr(builtins, '__import__', broken)
    if compiled:
        function = torch.compile(function, fullgraph=True, backend='aot_eager')
    assert_equal(results(function, tensors), expected)
    assert fallback.fallen() == {'Triton': 'ImportError: libtriton.so: undefined symbol'}


def test_trials_name_what_is_refused(monkeypatch):
    Refusal(monkeypatch, 'kernel')
    assert set(trials.refusals(DEVICE)) == set(trials.calls(DEVICE, torch.float32))
    monkeypatch.setattr(fallback, '_fallen', {})
    monkeypatch.setenv('MTP_STRICT', '1')
    assert 'MTP_STRICT=1 allows no fall-back' in trials.refusals(DEVICE)['dcnv3']


@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``')
def test_a_training_goes_on_with_the_twins_numbers(monkeypatch):
    """Losses and weights of three steps of two accumulated batches."""

    def train():
        model = build_model(
            dict(a=dict(num_classes=2)),
            backbone=dict(type=build_backbone, name='vit_tiny_rvsa', embed_dim=48, img_size=64),
        ).train()
        optimizer = torch.optim.AdamW(model.parameters())
        losses = []
        for number in range(6):
            samples = [make_sample('a', seed=seed) for seed in (number, 9)]
            total, _ = model.parse_losses(losses_of(model, samples))
            total.backward()
            losses.append(total.detach())
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
        return [*losses, *model.state_dict().values()]

    with monkeypatch.context() as patch:
        refused = dict.fromkeys(trials.calls(DEVICE, torch.float32), 'refused before')
        patch.setattr(fallback, '_fallen', refused)
        expected = train()
    Refusal(monkeypatch, 'kernel')
    assert_equal(train(), expected)
    assert {'rotated_window_attention', 'roi_align_levels'} <= fallback.fallen().keys()
