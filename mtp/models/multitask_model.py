"""One encoder, several tasks, several data sets."""

from collections.abc import Iterator, Sequence

import torch
from mmdet.structures import DetDataSample, SampleList
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel, ModuleDict
from torch import Tensor

from mtp.models.backbones.base import dtype_of_products
from mtp.models.tasks.base import TaskBatch, to_device
from mtp.ops import share_maps
from mtp.registry import MODELS


@MODELS.register_module()
class MultiTaskPretrainer(BaseModel):
    """Multi-task supervised pretraining: a backbone, a decoder per task, last layers per data set.

    The backbone runs once on the images of all data sets, each decoder once on the images of the
    data sets that have its labels. The loss is the plain sum over data sets, tasks and terms,
    logged as ``<data set>.<task>.<term>``.

    Source: Wang et al., *MTP: Advancing Remote Sensing Foundation Model via Multi-Task
    Pretraining*, 2024, section III.

    Args:
        backbone: config of a backbone that returns four feature maps (strides 4, 8, 16, 32) and
            has ``out_channels``.
        tasks: task -> config of a :class:`mtp.models.tasks.Task`, without ``in_channels`` and
            ``num_classes``.
        datasets: data set -> ``dict(num_classes=..., tasks=..., masks=...)``; ``num_classes``
            without background, ``tasks`` the tasks it has labels for (default: all), ``masks``
            whether its instances have masks (default: True), else it has no loss of masks.
        data_preprocessor: config of :class:`MultiTaskDataPreprocessor`.
        init_cfg: initialisation config, as in mmengine.

    Raises:
        ValueError: a data set names a task that is not configured, no data set has a task's
            labels, or a data set's name is reserved.
    """

    def __init__(
        self,
        backbone: dict,
        tasks: dict[str, dict],
        datasets: dict[str, dict],
        data_preprocessor: dict,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=MODELS.build(data_preprocessor), init_cfg=init_cfg)
        self.datasets = {
            name: dict(
                num_classes=dataset['num_classes'],
                tasks=tuple(dataset.get('tasks', tasks)),
                masks=dataset.get('masks', True),
            )
            for name, dataset in datasets.items()
        }
        self._check_names(tasks)
        self._orders: dict[tuple, Tensor] = {}  # a captured step reads the index it was made with
        self.backbone = MODELS.build(backbone)
        self.tasks = ModuleDict()
        for task, cfg in tasks.items():
            num_classes = {
                name: dataset['num_classes']
                for name, dataset in self.datasets.items()
                if task in dataset['tasks']
            }
            without = [name for name in num_classes if not self.datasets[name]['masks']]
            self.tasks[task] = MODELS.build(
                ConfigDict(
                    cfg,
                    in_channels=self.backbone.out_channels,
                    num_classes=num_classes,
                    **(dict(without_masks=without) if without and task == 'instance' else {}),
                )
            )

    def _check_names(self, tasks: dict[str, dict]) -> None:
        for name, dataset in self.datasets.items():
            if '.' in name or 'loss' in name or 'acc' in name.split('_'):
                raise ValueError(
                    f"data set name {name!r}: '.', 'loss' and 'acc' are reserved in the names of "
                    'logged values; choose another name'
                )
            unknown = set(dataset['tasks']) - set(tasks)
            if unknown:
                raise ValueError(
                    f'data set {name!r} names the tasks {sorted(unknown)}, but the model has '
                    f'{sorted(tasks)}: add them to `tasks` or remove them from the data set'
                )
        for task in tasks:
            if not any(task in dataset['tasks'] for dataset in self.datasets.values()):
                raise ValueError(
                    f'no data set has labels for the task {task!r}: remove the task, '
                    "or name it in a data set's `tasks`"
                )

    def forward(
        self, inputs: Tensor, data_samples: SampleList | None = None, mode: str = 'tensor'
    ) -> dict | SampleList | list[Tensor]:
        """Run the model.

        Args:
            inputs: images ``(B, 3, H, W)`` from the data preprocessor.
            data_samples: one sample per image; its metainfo names the ``dataset``.
            mode: ``'loss'`` returns the losses, ``'predict'`` the samples with the predictions
                added, ``'tensor'`` the backbone's four feature maps.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.backbone(inputs)
        raise ValueError(f"mode is {mode!r}; it must be 'loss', 'predict' or 'tensor'")

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """Return losses by ``<data set>.<task>.<term>``; terms without ``loss`` are only logged."""
        names = list(self.datasets)
        order = sorted(
            range(len(data_samples)), key=lambda i: names.index(self._dataset_of(data_samples[i]))
        )
        if order != list(range(len(data_samples))):
            inputs, data_samples = (
                inputs[self._index(tuple(order), inputs.device)],
                [data_samples[i] for i in order],
            )
        features = self.backbone(inputs)
        # cast once, instead of in each convolution that takes them
        shares = share_maps(features, len(self.tasks), dtype=dtype_of_products(features[0]))
        losses: dict[str, Tensor] = {}
        for task, features_t, batch in self._task_batches(shares, data_samples):
            for name, terms in self.tasks[task].loss(features_t, batch).items():
                losses |= {f'{name}.{task}.{term}': value for term, value in terms.items()}
        return losses

    def _index(self, order: tuple[int, ...], device: torch.device) -> Tensor:
        """Return the order of the images as a tensor, which is made once for each order."""
        if (order, device) not in self._orders:
            self._orders[order, device] = to_device(order, device, torch.int64)
        return self._orders[order, device]

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: SampleList) -> SampleList:
        """Add each task's predictions to the samples, in pixels of the original images."""
        return self.predict_features(self.backbone(inputs), data_samples)

    @torch.no_grad()
    def predict_features(self, features: list[Tensor], data_samples: SampleList) -> SampleList:
        """Do as :meth:`predict` from the backbone's feature maps, which serve all data sets."""
        for task, features_t, batch in self._task_batches(
            len(self.tasks) * [features], data_samples
        ):
            self.tasks[task].predict(features_t, batch)
        return data_samples

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses; average the logged values over processes.

        mmengine's method would launch about five kernels per term, forward and backward.
        """
        total = torch.stack([value for key, value in losses.items() if 'loss' in key]).sum()
        values = torch.stack([total, *losses.values()]).detach()
        if get_world_size() > 1:
            all_reduce(values, 'mean')
        return total, dict(zip(['loss', *losses], values))

    def _dataset_of(self, sample: DetDataSample) -> str:
        name = sample.get('dataset')
        if name not in self.datasets:
            raise ValueError(
                f'image {sample.get("img_path")} belongs to data set {name!r}, but '
                f'the model knows {list(self.datasets)}: compare `datasets` of the model '
                'with the names of the data sets in the loader'
            )
        return name

    def _task_batches(
        self, shares: Sequence[Sequence[Tensor]], samples: SampleList
    ) -> Iterator[tuple[str, list[Tensor], TaskBatch]]:
        """Yield each task's name, with the features and samples of the images that it works on.

        Args:
            shares: feature maps of all images, for each task.
            samples: samples of all images.
        """
        runs = _runs([self._dataset_of(sample) for sample in samples])
        for task, features in zip(self.tasks, shares):
            chosen = [(name, run) for name, run in runs if task in self.datasets[name]['tasks']]
            if not chosen:
                continue
            features_t = list(features)
            if len(chosen) < len(runs):
                features_t = [torch.cat([f[run] for _, run in chosen]) for f in features]
            groups: dict[str, slice] = {}
            members: SampleList = []
            for name, run in chosen:
                groups[name] = slice(len(members), len(members) + run.stop - run.start)
                members += samples[run]
            yield task, features_t, TaskBatch(members, groups, features[0].device)


def _runs(names: list[str]) -> list[tuple[str, slice]]:
    """Return runs of equal neighbours; in training each data set is one run."""
    runs, start = [], 0
    for stop in range(1, len(names) + 1):
        if stop == len(names) or names[stop] != names[start]:
            runs.append((names[start], slice(start, stop)))
            start = stop
    return runs
