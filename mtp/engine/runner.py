"""mmengine's runner, extended for sharded models."""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import BaseLoop, CheckpointLoader
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mtp import fallback
from mtp.data.sample_seeds import SeededSampler, seed_samples
from mtp.engine import provenance, self_description, start_summary
from mtp.engine.checkpoint_writer import CheckpointWriter, to_host, write_file
from mtp.engine.console_log import SHOWN, ConsoleFilter, tidy_console
from mtp.engine.finite import not_finite_buffers
from mtp.engine.loader_workers import watch_workers
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper, autocast_dtype
from mtp.engine.parallel import ShardedModel, unwrap
from mtp.engine.shards import check_progress, distribute, load_shards, start_shards
from mtp.files import UnusableFileError
from mtp.models.weights.loading import state_dict_of
from mtp.models.weights.safe_loading import load_safely
from mtp.ops.deterministic import replace_pools


class Runner(MMEngineRunner):
    """mmengine's runner that can also train a :class:`mtp.engine.ShardedModel`.

    The checkpoint of a sharded model is a folder, named as the file would be. A run resumes from a
    folder on any number of processes. An unsharded model may resume from a folder, and a sharded
    one from a file.
    """

    _train_dataloader: DataLoader | dict | None
    _group: ProcessGroup | None = None
    _in_background = False
    _training: dict[str, Any] | None = None  # what checkpoints tell of it
    _description: str | None = None  # and of its model
    _began: dict[str, bool] | None = None  # buffers that were not finite when it began
    console: ConsoleFilter  # set by build_logger

    @functools.cached_property
    def writer(self) -> CheckpointWriter:
        """Thread that writes checkpoints."""
        return CheckpointWriter()

    @property
    def bare_model(self) -> nn.Module:
        """Model without the wrapper of distributed training."""
        return unwrap(self.model)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as in mmengine; mtp's own messages go to the same log.

        The console shows only what a user reads (:mod:`mtp.engine.console_log`).
        """
        logger = super().build_logger(*args, **kwargs)
        self.console = tidy_console(logger)
        fallback.logger.handlers = list(logger.handlers)
        return logger

    def say(self, line: str) -> None:
        """Log a line that the console shows too, even before the summary of the start."""
        self.logger.info(line, **SHOWN)

    @property
    def _shards(self) -> bool:
        return isinstance(self.model, ShardedModel) and self.model.is_sharded

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Set the seeds as in mmengine; ``deterministic`` also configures cuBLAS.

        A resumed run takes the seed of its checkpoint after the loader has been built, so that the
        loader takes it too.
        """
        if deterministic:
            # mmengine 0.10 does not set it, and torch refuses matrix products without it
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
            torch.backends.cudnn.benchmark = False
        super().set_randomness(seed, diff_rank_seed, deterministic)
        loop = getattr(self, '_train_loop', None)
        if isinstance(loop, BaseLoop) and not diff_rank_seed:
            sampler = getattr(loop.dataloader.batch_sampler, 'sampler', None)
            if isinstance(sampler, SeededSampler):
                sampler.seed = self.seed

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop as in mmengine; its loader seeds samples and can begin anywhere."""
        if isinstance(loop, dict) and isinstance(self._train_dataloader, dict):
            self._train_dataloader = seed_samples(self._train_dataloader)
        return super().build_train_loop(loop)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model as in mmengine; if deterministic, replace pools that are not."""
        built = super().build_model(model)
        if self.deterministic:
            replace_pools(built)
        return built

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader as in mmengine; its workers outlive signals and report what they read."""
        loader = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        if loader.num_workers:
            watch_workers(loader)
        return loader

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | Optimizer | dict) -> OptimWrapper:
        """Build the wrapper as in mmengine; before that, initialise and shard a sharded model."""
        if isinstance(self.model, ShardedModel) and not self.model.is_sharded:
            super()._init_model_weights()
            self.model.shard(_compute_dtype(optim_wrapper))  # type: ignore[arg-type]  # a config
        return super().build_optim_wrapper(optim_wrapper)

    def _init_model_weights(self) -> None:
        if not self._shards:  # a sharded model was initialised before
            super()._init_model_weights()

    def train(self) -> nn.Module:
        """Train as in mmengine; whatever ends it, hooks that have ``close`` end their threads."""
        try:
            return super().train()
        finally:
            for hook in self.hooks:
                if close := getattr(hook, 'close', None):
                    close()

    def load_or_resume(self) -> None:
        """Load or resume as in mmengine; note what a training is made from; sum up the start."""
        trains = isinstance(self._train_loop, BaseLoop)
        if trains:
            dataset = self.train_dataloader.dataset
            self._training = provenance.of_training(self.cfg, dataset, is_main_process())
            self._description = self_description.describe(
                self.cfg, self.bare_model, dataset, self._training['data']
            )
        super().load_or_resume()
        if trains:
            self._began = not_finite_buffers(self.bare_model)
        if trains and is_main_process():
            start = self._load_from and dict(path=str(self._load_from), resumed=bool(self._resume))
            provenance.append_start(
                self.work_dir, self._training or {}, start=start, iteration=self.iter
            )
        self._sum_up_start(trains)

    def _sum_up_start(self, trains: bool) -> None:
        """Log the summary, after which the console shows the course of the run."""
        if self.console.starting and (trains or isinstance(self._test_loop, BaseLoop)):
            describe = start_summary.of_training if trains else start_summary.of_test
            for line in describe(self, self._load_from):
                self.say(line)
        self.console.starting = False

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save as in mmengine, atomically and with a checksum; all processes write the shards.

        Raises:
            CheckpointError: this one, or one before it, could not be written.
            ValueError: a backend of files is given.
        """
        if file_client_args or backend_args:
            raise ValueError('checkpoints are written to a file system: leave out backend_args')
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + by_epoch)
        meta.setdefault('iter', self.iter + (not by_epoch))
        checkpoint = self._checkpoint(meta, save_optimizer, save_param_scheduler)
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        path = Path(out_dir) / filename
        self.writer.wait()  # at most one copy is in host memory
        if self._shards:
            self.writer.submit(start_shards(checkpoint, path, self._writers(), self._began))
        elif is_main_process():
            self.writer.submit(
                functools.partial(write_file, to_host(checkpoint), path, self._began)
            )
        if not self._in_background:
            self.writer.wait()

    @contextmanager
    def saving_in_background(self) -> Iterator[None]:
        """Make :meth:`save_checkpoint` return when the checkpoint is in host memory.

        ``writer.wait()`` waits for the disk.
        """
        self._in_background = True
        try:
            yield
        finally:
            self._in_background = False

    def _checkpoint(
        self, meta: dict[str, Any], save_optimizer: bool, save_param_scheduler: bool
    ) -> dict[str, Any]:
        """Return what mmengine saves, the tensors still where training has them."""
        meta.update(
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y%m%d_%H%M%S'),
            mmengine_version=mmengine.__version__,
        )
        if hasattr(self.train_dataloader.dataset, 'metainfo'):
            meta['dataset_meta'] = self.train_dataloader.dataset.metainfo
        if self._training is not None:
            meta['provenance'] = self._training
        if self._description is not None:
            meta[self_description.KEY] = self._description
        checkpoint: dict[str, Any] = {
            'meta': meta,
            'state_dict': self.bare_model.state_dict(),
            'message_hub': self.message_hub.state_dict(),
        }
        if save_optimizer:
            checkpoint['optimizer'] = self.optim_wrapper.state_dict()
        if save_param_scheduler:
            schedulers = self.param_schedulers or []
            checkpoint['param_schedulers'] = (
                {name: _states(of_one) for name, of_one in schedulers.items()}
                if isinstance(schedulers, dict)  # of several optimisers
                else _states(schedulers)
            )
        return checkpoint

    def _writers(self) -> ProcessGroup:
        """Return a group of CPUs for the threads that write; that of training stays as it is."""
        if self._group is None:
            self._group = torch.distributed.new_group(backend='gloo')
        return self._group

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Load as in mmengine, or from a folder, whose entries must all fit the model.

        Raises:
            UnusableFileError: the file or folder cannot be read, does not fit the model, or was
                trained for other classes.
        """
        with _faults_of(filename):
            folder = Path(filename).is_dir()
            built = isinstance(self.optim_wrapper, OptimWrapper)
            optimizer = self.optim_wrapper.optimizer if built else None
            if folder:
                checkpoint = load_shards(filename, self.bare_model, optimizer)
            else:
                checkpoint = self._read_checkpoint(
                    filename, 'cpu' if self._shards else map_location
                )
                if self._shards:
                    distribute(checkpoint, self.bare_model, optimizer)
            if self._resume:
                check_progress(checkpoint, filename)
            self._tell_differences(checkpoint.get('meta'), filename)
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
            if folder or self._shards:
                self.bare_model.load_state_dict(checkpoint['state_dict'], strict=strict)
            else:
                _load_checkpoint_to_model(self.bare_model, checkpoint, strict, **kwargs)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _tell_differences(self, meta: object, filename: str) -> None:
        """Warn of what differs between a checkpoint's training and this run."""
        loops = (self._train_loop, self._test_loop)
        loop = next((loop for loop in loops if isinstance(loop, BaseLoop)), None)
        if loop is None or not isinstance(meta, dict):
            return
        now = self._training or dict(classes=provenance.classes(loop.dataloader.dataset))
        goes_on = self._resume or loop is self._test_loop
        for line in provenance.differences(meta, self.cfg, now, filename, goes_on):
            self.logger.warning(line)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume as in mmengine.

        Raises:
            UnusableFileError: the file or folder is no checkpoint of this training.
        """
        with _faults_of(filename):
            super().resume(filename, *args, **kwargs)

    def _read_checkpoint(self, filename: str, map_location: str | Callable) -> dict[str, Any]:
        """Return what a file holds, its weights under ``state_dict``."""
        if self._resume:  # exactly this file, never one of weights alone beside it
            content = load_safely(filename, map_location)
        else:
            content = CheckpointLoader.load_checkpoint(filename, map_location)
        weights = state_dict_of(content, filename)
        if isinstance(content.get('state_dict'), dict):
            return content
        return {'state_dict': weights}


@contextmanager
def _faults_of(filename: str) -> Iterator[None]:
    """Turn what goes wrong with the content of a checkpoint into one error that names it."""
    try:
        yield
    except UnusableFileError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines() or ['']
        raise UnusableFileError(
            f'{filename} is no checkpoint that this run can load '
            f'({type(error).__name__}: {reason[0][:200]}). Use the config that it was trained '
            'with, or start from its weights alone with load_from'
        ) from error


def _states(schedulers: Sequence[_ParamScheduler]) -> list[dict[str, Any]]:
    return [scheduler.state_dict() for scheduler in schedulers]


def _compute_dtype(optim_wrapper: dict) -> torch.dtype | None:
    """Return the autocast dtype that the config of an optimiser wrapper selects, or None."""
    type_ = optim_wrapper.get('type', OptimWrapper)
    type_ = OPTIM_WRAPPERS.get(type_) if isinstance(type_, str) else type_
    if not issubclass(type_, MixedPrecisionOptimWrapper):
        return None
    settings = {key: optim_wrapper[key] for key in ('amp', 'dtype') if key in optim_wrapper}
    return autocast_dtype(**{'amp': 'auto', **settings})
