"""A part that does not compile runs uncompiled, from the same step and with the same numbers."""

import os
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from threading import Thread
from unittest.mock import patch

import pytest
import torch
from functorch.compile import make_boxed_func
from mmengine.optim import OptimWrapper
from torch._inductor.compile_fx import compile_fx

from mtp import fallback
from mtp.cli import launch
from mtp.engine.compiled_part import PartKind, _turn_on_this_machine
from mtp.engine.hooks.compilation import CompileHook, compile_parts
from mtp.models import LeanUPerHead
from tests.distributed import run_processes
from tests.engine.test_parallel import _config, _results
from tests.models.small import build_model, losses_of, make_sample

# The first keeps running statistics.
HEAD, TERMS = 'LeanUPerHead._forward_feature', 'SemanticTask.terms'


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(LeanUPerHead, 'compiled_methods', ('_forward_feature',), raising=False)
    monkeypatch.delenv('MTP_STRICT', raising=False)
    monkeypatch.setattr(fallback, '_fallen', {})
    torch._dynamo.reset()
    with torch.compiler.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


@contextmanager
def broken_lowering():
    def fail(self, *args):
        raise RuntimeError('no form of this operator')

    with patch.object(torch._inductor.graph.GraphLowering, 'run', fail):
        yield 'inductor'


@contextmanager
def broken_kernel():
    with torch._inductor.config.patch({'cpp.cxx': ('no-such-compiler',)}):
        yield 'inductor'


@contextmanager
def broken_backward():
    def only_forward(graph, inputs, is_backward=False, **settings):
        if is_backward:
            raise RuntimeError('no gradient of this operator')
        return make_boxed_func(graph.forward)

    yield partial(compile_fx, inner_compile=only_forward)


def train(model, accumulate=1):
    """Losses of three updates, then weights and running statistics."""
    optimizer = OptimWrapper(
        torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=accumulate
    )
    losses = []
    for step in range(3 * accumulate):
        torch.manual_seed(step)
        samples = [make_sample('a', ('semantic',), seed=10 * step + i) for i in range(2)]
        with optimizer.optim_context(model):
            loss = model.parse_losses(losses_of(model, samples))[0]
        optimizer.update_params(loss)
        losses.append(loss.detach())
    return losses, model.state_dict()


def small_model():
    return build_model(dict(a=dict(num_classes=2)), ('semantic',)).train()


@pytest.mark.parametrize(
    ('fault', 'part', 'accumulate', 'reason'),
    [
        (broken_lowering, HEAD, 1, 'no form of this operator'),
        (broken_kernel, TERMS, 2, 'no-such-compiler'),
        (broken_backward, HEAD, 2, 'no gradient of this operator'),
    ],
)
def test_a_broken_part_trains_as_uncompiled(fault, part, accumulate, reason, caplog):
    model = small_model()
    expected = train(small_model(), accumulate)
    kinds = compile_parts(model, 'eager')
    with fault() as backend:
        kinds[part].backend = torch._dynamo.lookup_backend(backend)
        found = train(model, accumulate)
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)
    assert [name for name, kind in kinds.items() if kind.failed] == [part]
    warned = [record.getMessage() for record in caplog.records if record.name == 'mtp']
    assert len(warned) == 1 and warned[0].startswith(f'{part} failed, from now on it runs uncomp')
    assert reason in warned[0] and '\n' not in warned[0]


def test_strict_mode_ends_with_the_failure(monkeypatch):
    monkeypatch.setenv('MTP_STRICT', '1')
    model = small_model()
    kinds = compile_parts(model, 'eager')
    with (
        broken_lowering() as backend,
        pytest.raises(fallback.FallbackError, match=f'{TERMS}: .*no form of this operator'),
    ):
        kinds[TERMS].backend = torch._dynamo.lookup_backend(backend)
        train(model)


def test_errors_of_the_method_itself_are_not_the_compilers():
    model = small_model()
    kinds = compile_parts(model, 'eager')
    with pytest.raises(ValueError, match='batch_size'):
        model.tasks.semantic.terms(torch.zeros(1, 3, 8, 8), torch.zeros(2, 64, 64).long())
    assert not kinds[TERMS].failed and not fallback.fallen()


def _broken_on_the_first(rank, folder):
    """A run compiled with a part that fails on process 0, and an uncompiled one."""

    def lower(self, graph, inputs):
        if self.name == HEAD and rank == 0:
            raise RuntimeError('no form of this operator')
        return graph.forward

    LeanUPerHead.compiled_methods = ('_forward_feature',)  # this process's own
    settings = dict(
        tasks=('semantic',),
        **{'default_hooks.logger.interval': 2, 'default_hooks.compilation.backend': 'eager'},
    )
    results = []
    for mode in ('on', 'off'):
        cfg = _config(2, folder / mode, **{'default_hooks.compilation.mode': mode}, **settings)
        runner = launch.build_runner(cfg)
        with (
            patch.object(PartKind, 'lower', lower),
            patch.object(runner.bare_model.backbone, 'compiled_parts', list),  # saves time
        ):
            runner.train()
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, CompileHook))
        failed = [name for name, kind in hook.kinds.items() if kind.failed]
        results.append((*_results(runner), failed))
    return results


@pytest.mark.slow
def test_a_part_broken_on_one_process_is_uncompiled_on_all(tmp_path):
    for compiled, uncompiled in run_processes(_broken_on_the_first, 2, tmp_path):
        assert compiled[0] == uncompiled[0] and len(compiled[0]['train/loss']) == 3
        torch.testing.assert_close(compiled[1], uncompiled[1], rtol=0, atol=0)
        assert compiled[2] == [HEAD] and not uncompiled[2]


def test_the_first_process_compiles_alone_and_the_others_load_together(tmp_path):
    order = []

    def process(name, seconds):
        with _turn_on_this_machine('part'):
            order.append(f'{name} starts')
            time.sleep(seconds)
            order.append(f'{name} ends')

    with patch.object(tempfile, 'gettempdir', lambda: str(tmp_path)):
        threads = [
            Thread(target=process, args=(name, 0.3)) for name in ('first', 'second', 'third')
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
    assert order[:2] == ['first starts', 'first ends']
    assert {*order[2:4]} == {'second starts', 'third starts'}


def test_without_locks_all_processes_compile(tmp_path):
    (tmp_path / f'mtp_compile_{os.getuid()}').touch()  # where the folder would be
    with patch.object(tempfile, 'gettempdir', lambda: str(tmp_path)):
        with _turn_on_this_machine('part'):
            pass
