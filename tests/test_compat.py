"""Each workaround of mtp/compat.py, and whether upstream still needs it."""

import importlib
import importlib.metadata
import inspect
import io
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._higher_order_ops import effects
from torch._inductor import lowering, scheduler
from torch.utils.data import DataLoader

from mtp import compat, resources
from mtp.ops import mmcv_ext


def test_an_index_of_a_pickle_takes_no_memory():
    bomb = b'\x80\x02]r\0\0\0\1.'
    with pytest.raises(ValueError, match='index 16,777,216, but it has 9 bytes'):
        compat.refuse_pickle_bombs(bomb)
    compat.refuse_pickle_bombs(pickle.dumps([[i] for i in range(300)], 2))
    tracemalloc.start()
    assert pickle.loads(bomb) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak > 2**27, "Python's unpickler needs refuse_pickle_bombs no longer"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_import_loads_neither_torch_nor_openmmlab():
    code = (
        'import sys, mtp; print({name.partition(".")[0] for name in sys.modules}'
        " & {'torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrotate'})"
    )
    assert run_python(code).stdout.strip() == 'set()'


def test_workarounds_apply_after_the_import_of_mmcv_too():
    result = run_python(
        'import mmcv, mtp\nfrom mmcv.ops import nms\nfrom mmengine import logging\n'
        'print(nms.__module__, hasattr(logging.print_log, "__wrapped__"))'
    )
    assert result.stdout.split() == ['mmcv.ops.nms', 'True'], result.stderr


def test_backbones_are_reached_from_the_package():
    import mtp

    assert 'vit_b_rvsa' in mtp.list_backbones()
    with pytest.raises(AttributeError, match='no attribute'):
        mtp.no_such_name  # noqa: B018


def test_upstream_still_looks_for_configs_within_the_package_alone():
    # when this fails, find_own_configs() can go
    from mmengine.utils import get_installed_path

    assert get_installed_path('mtp') != str(resources.configs().parent)


def test_upstream_still_writes_nan_into_the_log():
    # when this fails, write_null_for_nan() can go
    from mmengine.visualization import vis_backend

    file = io.StringIO()
    vis_backend.dump.__wrapped__({'loss': float('nan')}, file, file_format='json')
    assert 'NaN' in file.getvalue()


def test_a_config_is_formatted_once_and_upstream_still_formats_it_each_time(monkeypatch):
    # when this fails, format_each_config_once() can go
    from mmengine.config import Config
    from yapf.yapflib import yapf_api

    assert hasattr(yapf_api.FormatCode, '__wrapped__')
    texts = []
    monkeypatch.setattr(
        yapf_api, 'FormatCode', lambda text, style_config: (texts.append(text) or text, True)
    )
    cfg = Config(dict(a=1))
    assert cfg.pretty_text == cfg.pretty_text == 'a=1' and texts == ['a=1'] * 2
    compat.format_each_config_once(yapf_api)
    texts.clear()
    assert cfg.pretty_text == cfg.pretty_text == 'a=1' and texts == ['a=1']
    cfg.a = 2
    assert cfg.pretty_text == 'a=2'
    yapf_api.FormatCode('a=2', style_config=dict(based_on_style='google'))
    assert texts == ['a=1', 'a=2', 'a=2']


@pytest.fixture
def transformers_5(tmp_path) -> Path:
    """Folder with a package that looks like transformers 5 to mmpretrain."""
    info = tmp_path / 'transformers-5.24.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: transformers\nVersion: 5.24.0\n')
    (tmp_path / 'transformers').mkdir()
    (tmp_path / 'transformers' / '__init__.py').touch()
    return tmp_path


def test_openmmlab_imports_without_noise_beside_transformers_5(transformers_5):
    result = run_python(
        'import mtp, mmdet.apis, mmseg.apis, mmrotate.models, mmrotate.datasets, '
        'mmrotate.evaluation, mmpretrain.models\nmmpretrain.registry.MODELS.get("OFA")()',
        PYTHONPATH=str(transformers_5),
    )
    assert result.stderr.strip().endswith("pip install 'transformers>=4.40,<5'"), result.stderr
    assert 'OneDL' not in result.stdout + result.stderr


def test_upstream_still_notices_onedl():
    # when this fails, silence_notices() needs no 'Could not import OneDL'
    assert (
        'Could not import OneDL'
        in run_python(
            'import mtp, mmengine.logging as log; log.print_log = log.print_log.__wrapped__; '
            'import mmdet.datasets'
        ).stdout
    )


def test_upstream_still_warns_of_its_own_file_client(monkeypatch):
    # when this fails, silence_notices() needs no 'FileClient' and no 'HardDiskBackend'
    from mmengine.fileio import file_client

    said = []
    monkeypatch.setattr(file_client.FileClient, '_instances', {})  # else it may keep an older one
    monkeypatch.setattr(file_client, 'print_log', lambda text, **_: said.append(text))
    file_client.FileClient.infer_client(uri='/tmp')
    assert len(said) == 2 and all(text.startswith(compat.NOTICES) for text in said)


def test_upstream_still_advises_on_cross_entropy():
    # when this fails, silence_advice_on_cross_entropy() can go
    from mmseg.models.losses import CrossEntropyLoss

    with pytest.warns(UserWarning, match='avg_non_ignore'):
        CrossEntropyLoss()
    with warnings.catch_warnings(record=True) as said:
        compat.silence_advice_on_cross_entropy(sys.modules['mmseg.models.losses'])
        CrossEntropyLoss()
    assert not said


def test_accuracy_needs_no_wait_and_upstreams_still_does():
    module = importlib.import_module('mmseg.models.losses.accuracy')
    from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

    scores, labels = torch.rand(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    labels[0, :3] = 255
    ours, theirs = module.accuracy, module.accuracy.__wrapped__
    for target in (labels, torch.full_like(labels, 255)):
        torch.testing.assert_close(
            ours(scores, target, ignore_index=255), theirs(scores, target, ignore_index=255)
        )
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert ours(scores, labels, ignore_index=255).shape == (1,)
        with pytest.raises(DynamicOutputShapeException):
            theirs(scores, labels, ignore_index=255)


def test_upstream_still_warns_of_clipping():
    # when this fails, silence_clip_of_rotated_boxes() can go
    from mmrotate.structures import RotatedBoxes

    boxes = RotatedBoxes([[5.0, 5, 4, 2, 0.1]])
    with pytest.warns(UserWarning, match='clip'):
        boxes.clip_((8, 8))


def test_upstream_still_breaks_beside_transformers_5(transformers_5):
    # when this fails, leave_out_multimodal_models() can go
    result = run_python(
        'import mtp, mmpretrain, runpy; from pathlib import Path; runpy.run_path(str(Path('
        'mmpretrain.__file__).parent / "models/multimodal/blip/language_model.py"))',
        PYTHONPATH=str(transformers_5),
    )
    assert 'TypeError: NoneType takes no arguments' in result.stderr


def test_upstream_still_lacks_the_compiled_extension():
    if mmcv_ext.has_compiled():
        pytest.skip(
            'a compiled mmcv is installed here; if a plain "pip install onedl-mmcv" made '
            'it, provide_mmcv_extension() can go'
        )
    # when this fails, mmcv.ops needs no extension and provide_mmcv_extension() can go
    assert "No module named 'mmcv._ext'" in run_python('import mmcv.ops').stderr
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.utils.dl_utils import mmcv_full_available

    assert check_ops_exist() and mmcv_full_available(), 'the substitute must look installed'


def test_sympy_keeps_more_results_which_torch_still_leaves_at_1000():
    code = 'import sympy.core.cache as c; print(c.SYMPY_CACHE_SIZE)'
    assert [
        run_python(start + code, SYMPY_CACHE_SIZE=size).stdout.strip()
        for start, size in (
            ('import os; del os.environ["SYMPY_CACHE_SIZE"]; import mtp; ', ''),
            ('import os; del os.environ["SYMPY_CACHE_SIZE"]; import torch._inductor.graph; ', ''),
            ('import mtp; ', '7'),
        )
    ] == ['200000', '1000', '7']


def test_mixed_distributions_are_refused(monkeypatch):
    names = ['mmdet', 'onedl-mmdetection', 'torch']
    monkeypatch.setattr(
        importlib.metadata,
        'distributions',
        lambda: [SimpleNamespace(metadata={'Name': name}) for name in names],
    )
    with pytest.raises(ImportError, match='pip uninstall -y mmdet onedl-mmdetection'):
        compat.refuse_mixed_distributions()
    names.remove('mmdet')
    compat.refuse_mixed_distributions()


class Malicious:
    def __reduce__(self):
        return (os.system, ('exit 0',))


def test_unsafe_checkpoints_are_refused(tmp_path):
    from mmengine.runner import checkpoint

    import mtp.engine  # noqa: F401  (applies the workaround)

    path = tmp_path / 'bad.pth'
    torch.save({'state_dict': {}, 'extra': Malicious()}, path)
    with pytest.raises(ValueError, match='cannot be read safely'):
        checkpoint.load_checkpoint(torch.nn.Linear(2, 2), str(path))
    # when upstream's loader has no such call any more, the workaround can go
    assert 'weights_only=False' in inspect.getsource(checkpoint)


def test_onnxscript_still_lacks_hypot():
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    known = ONNXRegistry.from_torchlib()
    assert known.get_decomps(torch.ops.aten.sqrt.default)
    assert not known.get_decomps(torch.ops.aten.hypot.default)


def test_inductor_still_loses_ordered_effects():
    """``support_ordered_effects`` can go when this fails; tests/ops/test_grouped_batch_norm.py has
    what it is for."""
    assert 'cacheable' not in inspect.getsource(effects.WithEffects)
    assert 'op_name = new_op.get_name()' in inspect.getsource(lowering)
    assert 'additional_star_deps[node.get_name()]' in inspect.getsource(scheduler)


@pytest.mark.parametrize(
    'value, message',
    [('fast', 'set it to native or portable'), ('native', 'has no compiled extension')],
)
def test_choice_of_operators(value, message):
    if mmcv_ext.has_compiled() and value == 'native':
        pytest.skip('a compiled mmcv is installed here')
    result = run_python('import mtp, mmcv.ops', MTP_OPS=value)
    assert result.returncode != 0 and message in result.stderr


@pytest.mark.parametrize(
    'value, before, expected',
    [
        ('', '', 'native'),
        ('native', '', 'native'),
        ('portable', '', 'portable'),
        ('portable', 'import mmcv.ops', 'comes too late'),
    ],
)
def test_choice_beside_a_compiled_extension(tmp_path, value, before, expected):
    (tmp_path / '_ext.py').write_text('def __getattr__(name):\n    return print  # any operator\n')
    result = run_python(
        f'import importlib, mmcv; mmcv.__path__.append({str(tmp_path)!r})\n{before}\nimport mtp\n'
        'found = hasattr(importlib.import_module("mmcv._ext"), "__file__")\n'
        'print("native" if found else "portable")',
        MTP_OPS=value,
    )
    assert expected in (result.stdout or result.stderr)


def test_info_says_which_operators_run(monkeypatch):
    from mtp.info import report
    from mtp.ops import dispatch

    text = report()
    assert 'mmcv.ops: ' in text and 'onedl-mmcv' in text
    assert f'mtp.ops: {dispatch.report()}' in text and '\n  rotated_boxes\n' in text
    monkeypatch.setattr(dispatch, 'SETTING', 'torch')
    assert 'mtp.ops: torch (MTP_KERNELS=torch)' in report()
    assert ', MTP_STRICT 1): none' in text.replace('unset', '1')


def test_info_names_what_falls_back(monkeypatch):
    from mtp import fallback
    from mtp.info import report

    monkeypatch.delenv('MTP_STRICT', raising=False)
    monkeypatch.setattr(fallback, '_fallen', {'dcnv3': 'OutOfResources: shared memory'})
    assert 'to slower forms:\n  dcnv3: OutOfResources: shared memory\n' in report()


@pytest.mark.parametrize('left', [False, True])
def test_torch_still_raises_of_a_dead_worker_wherever_the_main_thread_is(left):
    batches = iter(DataLoader(range(8), num_workers=1, prefetch_factor=1))
    if left:
        compat.leave_dead_workers_to_the_loader(batches)
    with nullcontext() if left else pytest.raises(RuntimeError, match='killed by signal'):
        batches._workers[0].kill()
        for _ in range(5 if left else 100):  # a handler of Python runs between two of its steps
            time.sleep(0.1)
