"""The jobs of the training benchmark: our recipe, and the paper's structure in two precisions."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from paper import model as paper_model
from torch import Tensor, nn
from torch.utils.data._utils.pin_memory import pin_memory

from mtp import mask_quota, resources
from mtp.cli import launch
from mtp.cli.arguments import RunOptions
from mtp.engine.compiled_part import PartKind
from mtp.engine.mixed_precision import autocast_dtype
from mtp.models.backbones import build_backbone
from mtp.registry import HOOKS, MODELS
from training.recipes import RECIPES

PHASES = ('data', 'forward', 'backward', 'optimizer')


class Job:
    """A way to train the model.

    Attributes:
        name: name in the table.
        model: model, in training mode.
        collate: function from samples to a batch as the model takes it.
        optimizer: optimiser wrapper, which steps once per batch.
        dtype: dtype of matrix products.
        operators: context in which the backbone uses the job's operators.
        matmul_precision: precision of float32 products, as
            ``torch.set_float32_matmul_precision`` takes it.
        build_seconds: time that building the model took, seconds.
        kinds: kinds of its compiled parts by name.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], tuple[BaseModel, OptimWrapper]],
        dtype: torch.dtype,
        operators: Callable[[], AbstractContextManager] = nullcontext,
        collate: Callable[[list[dict]], dict] = pseudo_collate,
        matmul_precision: str = 'highest',
    ) -> None:
        begun = time.perf_counter()
        self.model, self.optimizer = build()
        self.build_seconds = time.perf_counter() - begun
        self.name, self.dtype, self.operators = name, dtype, operators
        self.collate, self.matmul_precision = collate, matmul_precision
        self.kinds: dict[str, PartKind] = {}

    @property
    def static_bytes(self) -> int:
        """Bytes of parameters, buffers and the optimiser's state."""
        state = [
            value
            for values in self.optimizer.optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ]
        return sum(t.nbytes for t in (*self.model.parameters(), *self.model.buffers(), *state))

    @contextmanager
    def context(self) -> Iterator[None]:
        """Provide the precision, operators and autocast of a forward pass."""
        torch.set_float32_matmul_precision(self.matmul_precision)
        with self.operators(), self.optimizer.optim_context(self.model):
            yield

    def forward(
        self, batch: dict[str, Any], tick: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses, and each of them, as in mmengine's ``train_step``."""
        with self.context():
            data = self.model.data_preprocessor(batch, True)
            tick()
            return self.model.parse_losses(self.model(**data, mode='loss'))

    def step(self, batch: dict[str, Any], tick: Callable[[], None] = lambda: None) -> None:
        """Run a training step; call ``tick`` at the end of each of :data:`PHASES`."""
        loss = self.optimizer.scale_loss(self.forward(batch, tick)[0])
        tick()
        self.optimizer.backward(loss)
        tick()
        self.optimizer.step()
        self.optimizer.zero_grad()
        tick()


def load_recipe(model: str, size: int, options: dict[str, Any]) -> Config:
    """Load the pretraining config of a model, for images of ``size`` pixels and random weights.

    Raises:
        ValueError: ``options`` do not fit the config.
    """
    cfg = launch.load_config(
        RunOptions(
            resources.configs() / 'pretrain' / f'{RECIPES[model][0]}.py', cfg_options=options
        )
    )
    cfg.model.backbone.update(img_size=size, init_cfg=None)
    cfg.model.data_preprocessor.pad_size_divisor = size
    init_default_scope('mtp')
    return cfg


def num_classes(cfg: Config) -> dict[str, int]:
    """Return data set -> number of classes."""
    return {name: dataset['num_classes'] for name, dataset in cfg.model.datasets.items()}


def ours(cfg: Config, device: torch.device) -> Job:
    """Return our recipe as ``tools/train.py`` runs it."""
    compilation = HOOKS.build(cfg.default_hooks.compilation)

    def build() -> tuple[BaseModel, OptimWrapper]:
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).to(device).train()
        compilation.before_train(
            SimpleNamespace(
                model=model, logger=MMLogger.get_current_instance(), work_dir=cfg.work_dir
            )
        )
        return model, build_optim_wrapper(model, cfg.optim_wrapper)

    dtype = autocast_dtype(cfg.optim_wrapper.get('amp', 'auto')) or torch.float32
    loader = cfg.train_dataloader
    collate = loader.collate_fn.type

    def collate_and_pin(samples: list[dict]) -> dict:
        batch = collate(samples)
        return pin_memory(batch) if device.type == 'cuda' and loader.pin_memory else batch

    # The precision of matrix products as tools/train.py sets it.
    job = Job('ours', build, dtype, collate=collate_and_pin, matmul_precision='high')
    job.kinds = compilation.kinds
    return job


def papers(cfg: Config, device: torch.device, state: dict[str, Tensor]) -> tuple[Job, Job]:
    """Return A and C: one model and one optimiser, in float32 and under autocast.

    Args:
        cfg: our config, for the backbone and the data sets.
        device: device to run on.
        state: state dict of our model, to start from.
    """

    def build() -> tuple[BaseModel, OptimWrapper]:
        settings = {key: value for key, value in cfg.model.backbone.items() if key != 'type'}
        model = paper_model.PaperModel(
            build_backbone(**settings),
            num_classes(cfg),
            size=settings['img_size'],
            small=cfg.model.tasks.semantic.decode_head.channels < 256,
        )
        paper_model.load(model, state)
        model = model.to(device).train()
        adamw = torch.optim.AdamW(
            model.parameters(), lr=6e-5, weight_decay=0.05, foreach=False, fused=False
        )
        return model, OptimWrapper(adamw, clip_grad=dict(max_norm=5.0))

    a = Job('A', build, torch.float32, paper_model.plain_operators)

    @contextmanager
    def under_autocast() -> Iterator[None]:
        with paper_model.plain_operators(), torch.autocast(device.type, torch.bfloat16):
            yield

    return a, Job('C', lambda: (a.model, a.optimizer), torch.bfloat16, under_autocast)


def losses(job: Job, samples: list[dict]) -> dict[str, float]:
    """Return each loss in float32 without randomness, to compare jobs."""
    torch.set_float32_matmul_precision('highest')
    with torch.no_grad(), _still(job.model), job.operators():
        data = job.model.data_preprocessor(job.collate(samples), True)
        terms = job.model.parse_losses(job.model(**data, mode='loss'))[1]
    return {name: value.item() for name, value in terms.items() if 'loss' in name}


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Disable dropout, sample all boxes, and train the masks of all positives."""
    settings = {'p': 0.0, 'acts': False, 'num': 1 << 20}
    with ExitStack() as stack:
        stack.enter_context(patch.object(mask_quota, 'EXTRA', 1 << 20))
        for module in model.modules():
            samplers = [getattr(module, name, None) for name in ('sampler', 'bbox_sampler')]
            for owner in (module, *samplers):
                for name in settings.keys() & getattr(owner, '__dict__', {}).keys():
                    stack.enter_context(patch.object(owner, name, settings[name]))
        yield
