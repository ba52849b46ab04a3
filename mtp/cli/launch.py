"""From a command line to a runner: what ``tools/train.py`` and ``tools/test.py`` share."""
import argparse
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import get_object_from_string

from mtp.engine.devices import describe_device
from mtp.engine.runner import Runner
from mtp.evaluation import Submission
from mtp.machine import LAUNCHERS
from mtp.old_names import new_config
from mtp.ops import mmcv_ext
from mtp.spelling import suggest


@contextmanager
def users_errors() -> Iterator[None]:
    """End the program with the message alone where a config or checkpoint is at fault."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error


def load_config(args: argparse.Namespace) -> Config:
    """Return the config that the arguments of :func:`mtp.cli.arguments.add_run_arguments` ask for.

    Raises:
        FileNotFoundError: no such config.
        ValueError: it cannot be read, an option names a key that it does not have, or this
            process was not started as its launcher needs.
    """
    path = new_config(Path(args.config))
    if not path.is_file():
        near = suggest(path.name, [file.name for file in path.parent.glob('*.py')])
        raise FileNotFoundError(f'no config at {path}{near}')
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{path} is not valid Python: {error}') from error
    override(cfg, args.cfg_options)
    cfg.work_dir = str(args.work_dir or Path('work_dirs') / _run_name(path))
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        _check_launcher(args.launcher)
        if not torch.cuda.is_available():
            # mmengine selects a GPU per process before it looks at the backend.
            torch.distributed.init_process_group('gloo')
            cfg.sync_bn = None  # torch's, of a user's own config, works on accelerators only
    return cfg


def number_of_processes(launcher: str) -> int:
    """Return how many processes a launcher has started, this one among them."""
    return 1 if launcher == 'none' else int(os.environ[LAUNCHERS[launcher].world_size])


def _run_name(config: Path) -> Path:
    """``configs/finetune/<task>/<data set>/<backbone>.py`` -> ``<task>/<data set>/<backbone>``."""
    parts = config.resolve().with_suffix('').parts
    return Path(*parts[parts.index('configs') + 2:]) if 'configs' in parts else Path(parts[-1])


def _check_launcher(launcher: str) -> None:
    facts = LAUNCHERS[launcher]
    if facts.rank not in os.environ:
        raise ValueError(f'--launcher {launcher} is for processes that {facts.command} starts, and '
                         f'{facts.rank} is not set: start this command with {facts.command}, or '
                         'leave out --launcher')
    number, gpus = int(os.environ.get(facts.local_rank, 0)), torch.cuda.device_count()
    if launcher == 'slurm' and gpus == 0:
        raise ValueError('--launcher slurm needs a GPU for each process, and none is visible: ask '
                         'srun for GPUs, or use --launcher pytorch, which also runs on CPUs')
    if 0 < gpus <= number:
        raise ValueError(f'process {number} of this machine has no GPU of its own, {gpus} visible: '
                         'start at most one process per GPU, each with all GPUs visible')


def override(cfg: Config, options: Mapping[str, Any]) -> None:
    """Set values of a config by dotted keys; a number counts into a list.

    A key must be there already, or be an argument that the ``type`` beside it takes (at the top
    level: that the runner takes). So a misspelt key is an error instead of an option without
    effect. Where the ``type`` passes ``**kwargs`` on, other keys reach it too, but not one that
    is nearly a known one.

    Raises:
        ValueError: an unknown key; the message names the ones that look alike.
    """
    for key in options:
        node, path = cfg, key.split('.')
        for depth, name in enumerate(path):
            known, passes_on = _keys(node, Runner if depth == 0 else None)
            if name not in known and (not passes_on or suggest(name, known, cutoff=0.8)):
                where = '.'.join(path[:depth]) or 'the config'
                raise ValueError(f'--cfg-options {key}: {where} has no key {name!r}'
                                 f'{suggest(name, known)}. It has: {", ".join(known) or "none"}')
            if depth < len(path) - 1:
                node = node[int(name)] if isinstance(node, list) else node.get(name)
    cfg.merge_from_dict(dict(options))


def _keys(node: Any, built_by: Callable | None) -> tuple[list[str], bool]:
    """What may follow ``node`` in a dotted key, and whether that is not all."""
    if isinstance(node, list):
        return [str(index) for index in range(len(node))], False
    if not isinstance(node, Mapping | Config):
        return [], False
    built_by = built_by or _built_by(node.get('type'))
    arguments = inspect.signature(built_by).parameters.values() if built_by else []
    names = [argument.name for argument in arguments
             if argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)]
    passes_on = any(argument.kind is argument.VAR_KEYWORD for argument in arguments)
    return list(dict.fromkeys([*node.keys(), *names])), passes_on


def _built_by(type_: Any) -> Callable | None:
    return get_object_from_string(type_) if isinstance(type_, str) else type_


def set_submission(cfg: Config, folder: str | None) -> None:
    """Where to write the predictions of a test split whose labels its benchmark's server keeps.

    Raises:
        ValueError: a folder for a data set that is evaluated here, or none for one that is not.
    """
    writes = issubclass(_built_by(cfg.test_evaluator.type), Submission)
    if writes and folder is None:
        raise ValueError('the labels of this test split are kept by the server of its benchmark: '
                         'give --submission DIR, and send in what is written there')
    if folder is not None and not writes:
        raise ValueError('--submission is for test splits whose labels are kept by a server, and '
                         'this one is evaluated here: leave it out')
    if writes:
        cfg.test_evaluator.out_dir = folder


def last_checkpoint(work_dir: str | Path) -> Path:
    """The newest complete checkpoint of a run, wherever its folder has been moved to.

    Raises:
        FileNotFoundError: there is none.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    if not pointer.is_file():
        raise FileNotFoundError(f'nothing to resume in {work_dir}: no checkpoint has been saved '
                                'there. Leave out --resume to start, or check --work-dir')
    return pointer.with_name(Path(pointer.read_text()).name)


def checkpoint_to_resume(cfg: Config, asked: str | None) -> Path | None:
    """The checkpoint that training goes on from, None to start.

    Processes that torchrun (``--max-restarts``) or SLURM (``--requeue``) has started again go on
    from the last checkpoint of their run, where it has saved one, whatever was asked for.

    Args:
        cfg: of :func:`load_config`.
        asked: a path, ``'last'`` or None.

    Raises:
        FileNotFoundError: the last one is asked for, and there is none.
    """
    pointer = Path(cfg.work_dir) / 'last_checkpoint'
    restarts = max(int(os.environ.get(launcher.restarts, 0)) for launcher in LAUNCHERS.values())
    if asked == 'last' or (restarts and pointer.is_file()):
        return last_checkpoint(cfg.work_dir)
    if cfg.launcher != 'none':
        # Left by an earlier run in this folder: no restart may take it for its own.
        pointer.unlink(missing_ok=True)
    return asked and Path(asked)


def build_runner(cfg: Config) -> Runner:
    """A runner; it writes the resolved config into its work directory."""
    init_default_scope(cfg.get('default_scope', 'mtp'))
    runner = Runner.from_cfg(cfg)
    for line in describe_device():
        runner.logger.info(line)
    return runner


def check_deterministic(cfg: Config) -> None:
    """Refuse operators that pay no heed to ``randomness.deterministic``.

    Raises:
        ValueError: mmcv's compiled operators would run on a GPU.
    """
    deterministic = cfg.get('randomness', {}).get('deterministic')
    if deterministic and torch.cuda.is_available() and mmcv_ext.choice() == 'native':
        raise ValueError("--deterministic: the gradients of mmcv's compiled operators are added in "
                         'any order: set MTP_OPS=portable')


def leave_processes() -> None:
    """Leave the process group: torn down with the interpreter it may abort a run that is done."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
