"""A model and data so small that a whole training run takes a second."""

import os
import random
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

TASKS = ('semantic', 'instance')


class ToyDataset(Dataset):
    """Random vectors ``(4,)``, a function of the index."""

    metainfo: ClassVar[dict] = {
        'datasets': {'sota': {'classes': ('plane', 'ship'), 'tasks': TASKS}}
    }

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'inputs': torch.randn(4, generator=torch.Generator().manual_seed(index))}


class NoisyDataset(ToyDataset):
    """Vectors with noise of each generator that transforms draw from; upright and lying images."""

    read: ClassVar[list[int]] = []  # indices, in the process that reads

    def get_data_info(self, index: int) -> dict[str, int]:
        return {'width': 1 + index % 3, 'height': 2}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read.append(index)
        noise = [random.random(), np.random.rand(), torch.rand(()), float(index)]
        return {'inputs': super().__getitem__(index)['inputs'] + torch.tensor(noise)}


class ToyModel(BaseModel):
    """Dropout makes each iteration depend on torch's generator."""

    def __init__(self, backbone: dict, width: int = 8) -> None:
        super().__init__()
        self.datasets = {'sota': {'num_classes': 2, 'tasks': TASKS}}
        self.backbone = nn.Sequential(nn.Linear(4, width), nn.Dropout(backbone['dropout']))
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: list[Tensor], mode: str = 'tensor') -> dict | list:
        features = self.backbone(torch.stack(inputs))
        if mode == 'predict':
            return list(self.head(features))
        return {
            'sota.semantic.loss_ce': self.head(features).square().mean(),
            'sota.instance.loss_bbox': features.abs().mean(),
            'sota.instance.loss_cls': 1 - self.head(features).mean(),
            'sota.instance.acc': features.sum(),
        }


class ToyMetric(BaseMetric):
    """Mean of all predictions."""

    def process(self, data_batch: dict, data_samples: list[Tensor]) -> None:
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {'mean': sum(results) / len(results)}


class KillOnce(Hook):
    """Kills process 1 the first time that it comes to the fifth iteration."""

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        killed = Path(runner.work_dir) / 'killed'
        if runner.rank == 1 and runner.iter == 4 and not killed.exists():
            killed.touch()
            # The checkpoint of the third iteration is written meanwhile.
            while not (Path(runner.work_dir) / 'last_checkpoint').exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)


class StopOnce(Hook):
    """Asks process 1 to stop the first time that it comes to the fifth iteration."""

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        asked = Path(runner.work_dir) / 'asked'
        if runner.rank == 1 and runner.iter == 4 and not asked.exists():
            asked.touch()
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
