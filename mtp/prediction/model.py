"""A trained model that predicts on images."""

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmrotate.structures.bbox import RotatedBoxes
from PIL import Image
from torch import Tensor, nn

from mtp.engine.checkpoints import digest
from mtp.evaluation.label_maps import probabilities_of
from mtp.evaluation.tables import SHOWN_SCORE
from mtp.models import MultiTaskPretrainer
from mtp.prediction.inputs import Input, Loader
from mtp.prediction.results import (
    Change,
    Classification,
    Detections,
    MultiTask,
    Result,
    RotatedDetections,
    Segmentation,
)
from mtp.sample_fields import IGNORED
from mtp.spelling import suggest

BATCH = 8  # images at once
BACKGROUND = 'background'


class ImageModel:
    """A trained model that predicts on images.

    Args:
        module: the network.
        description: content of the checkpoint's description
            (:mod:`mtp.engine.self_description`).
        loader: loading of images.
        source: path of the checkpoint.

    Attributes:
        task: finetuning task, ``'pretraining'`` of a multi-task model, or ``'other'``.
        datasets: data set -> its ``classes``, ``palette`` and ``tasks``; the name of a single one
            is ``''``.
    """

    def __init__(
        self, module: nn.Module, description: Mapping[str, Any], loader: Loader, source: str
    ) -> None:
        self.module, self.description = module.eval(), description
        self.loader, self.source = loader, source
        self.task: str = description['task']
        self.datasets: dict[str, dict[str, Any]] = description['datasets']

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.module.parameters()).device

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the checkpoint, hex digits; of a folder, of those of its files."""
        path = Path(self.source)
        if path.is_file():
            return digest(path)
        parts = [digest(each) for each in sorted(path.iterdir()) if each.is_file()]
        return hashlib.sha256(''.join(parts).encode()).hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; of a multi-task model, those of its first data set."""
        return tuple(next(iter(self.datasets.values()))['classes'])

    @property
    def side(self) -> int | None:
        """Side in pixels of the images that the backbone is built for; None if it has none."""
        side = self.description['model'].get('backbone', {}).get('img_size')
        return side if isinstance(side, int) else None

    @property
    def mean(self) -> np.ndarray:
        """Mean of each band of the images, in their unit, float32 ``(C,)``."""
        mean = cast(Any, self.module).data_preprocessor.mean
        return mean.flatten()[: self.loader.channels].cpu().numpy()

    def to(self, device: str | torch.device) -> 'ImageModel':
        """Move the model to a device; return it."""
        self.module.to(device)
        return self

    def __call__(
        self,
        images: Input | Iterable[Input],
        *,
        score: float = SHOWN_SCORE,
        classes: Sequence[str] | None = None,
        batch_size: int = BATCH,
        device: str | None = None,
        max_objects: int | None = None,
        dataset: Sequence[str] | str | None = None,
    ) -> Any:
        """Predict on an image, or on several.

        Args:
            images: image, as in :meth:`mtp.prediction.inputs.Loader.load`; or a list or an iterator
                of images.
            score: smallest score of objects, 0..1.
            classes: names of the classes of objects to keep; None for all.
            batch_size: largest number of images at once.
            device: device to move the model to first; None to leave it.
            max_objects: largest number of objects of an image, those of the highest scores.
            dataset: names of the data sets of a multi-task model; None for all.

        Returns:
            A :class:`~mtp.prediction.results.Result`, for a multi-task model
            :class:`~mtp.prediction.results.MultiTask`; for a list, a list of them; for an iterator,
            an iterator that reads images as results are taken.

        Raises:
            UnusableFileError: an image cannot be read, or does not fit the model.
            ValueError: a class or a data set is unknown.
        """
        if device is not None:
            self.to(device)
        keep = Keep(self, score, classes, max_objects, dataset)
        if isinstance(images, tuple) or not isinstance(images, Iterable) or _is_image(images):
            return next(self._stream([cast(Input, images)], 1, keep))
        results = self._stream(cast(Iterable[Input], images), batch_size, keep)
        return list(results) if isinstance(images, list) else results

    def _stream(self, images: Iterable[Input], batch_size: int, keep: 'Keep') -> Iterator[Any]:
        images = iter(images)
        while records := [self.loader.load(i) for i in itertools.islice(images, batch_size)]:
            for found, record in zip(self.samples(records, keep.datasets), records):
                yield keep.result(found, record)

    @torch.inference_mode()
    def samples(
        self, records: Sequence[Mapping[str, Any]], datasets: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return each image's samples of the library with predictions, by data set.

        Images of one size after the transforms go through the model at once.

        Args:
            records: loaded images, of :class:`~mtp.prediction.inputs.Loader`.
            datasets: data sets to predict for.
        """
        found: list[dict[str, Any]] = [{} for _ in records]
        with DefaultScope.overwrite_default_scope(self.description['scope']):
            batch = [self.loader.transform({**record, 'sample_idx': 0}) for record in records]
            of_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for i, sample in enumerate(batch):
                of_shape[sample['inputs'].shape].append(i)
            for places in of_shape.values():
                data = self._preprocess([batch[i] for i in places])
                for i, of_image in zip(places, self._forward(data, datasets)):
                    found[i] = of_image
        return found

    def _forward(self, data: dict, datasets: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the samples of each image of a batch, by data set."""
        if not isinstance(self.module, MultiTaskPretrainer):
            yield from ({datasets[0]: each} for each in self.module(**data, mode='predict'))
            return
        features = self.module.backbone(data['inputs'])
        of_datasets = []
        for name in datasets:
            samples = [each.clone() for each in data['data_samples']]
            for sample in samples:
                sample.set_metainfo(dict(dataset=name))
            of_datasets.append(self.module.predict_features(features, samples))
        yield from (dict(zip(datasets, each)) for each in zip(*of_datasets))

    def _preprocess(self, samples: list[dict]) -> dict:
        return cast(Any, self.module).data_preprocessor(pseudo_collate(samples), False)


class Keep:
    """Which predictions are kept, and their conversion to results.

    The arguments are those of :meth:`ImageModel.__call__`.

    Attributes:
        datasets: names of the data sets to predict for.
    """

    def __init__(
        self,
        model: ImageModel,
        score: float = SHOWN_SCORE,
        classes: Sequence[str] | None = None,
        max_objects: int | None = None,
        dataset: Sequence[str] | str | None = None,
    ) -> None:
        self.model, self.score, self.max_objects = model, score, max_objects
        chosen = [dataset] if isinstance(dataset, str) else dataset
        self.datasets = list(model.datasets) if chosen is None else list(chosen)
        for name in self.datasets:
            if name not in model.datasets:
                raise ValueError(
                    f'dataset={name!r}: unknown{suggest(name, model.datasets)}; the model has '
                    f'{", ".join(model.datasets) or "no names"}'
                )
        known = {name for chosen in self.datasets for name in model.datasets[chosen]['classes']}
        for name in classes or ():
            if name not in known:
                raise ValueError(
                    f'classes: {name!r} is unknown{suggest(name, known)}; the model has '
                    f'{", ".join(sorted(known))}'
                )
        self.classes = None if classes is None else frozenset(classes)

    def kind_of(self, width: int) -> type[Detections]:
        """Return the class of objects whose boxes have so many values."""
        return RotatedDetections if width == 5 else Detections

    def of_task(self, sample: Any, key: tuple[str, str], record: Mapping, about: Mapping) -> Result:
        """Return the result of a data set's task."""
        if self.model.task == 'pretraining':
            return self.of_field(sample, key[1], key[0], about)
        return self.of_sample(sample, self.datasets[0], record, about)

    def result(self, found: Mapping[str, Any], record: Mapping[str, Any]) -> Any:
        """Return the result of an image from its samples by data set."""
        about = dict(
            size=tuple(record['ori_shape']),
            source=record.get('img_path', ''),
            picture=partial(self.model.loader.picture, record),
        )
        if self.model.task != 'pretraining':
            (sample,) = found.values()
            return self.of_sample(sample, self.datasets[0], record, about)
        return MultiTask(
            {
                (name, task): self.of_field(sample, task, name, about)
                for name, sample in found.items()
                for task in self.model.datasets[name].get('tasks', ())
            }
        )

    def of_field(self, sample: Any, task: str, dataset: str, about: Mapping) -> Result:
        """Return the result of a task of the multi-task model."""
        if task == 'semantic':
            meta = self.model.datasets[dataset]
            names = (BACKGROUND, *meta['classes'])
            palette = [(0, 0, 0), *meta['palette']] if meta.get('palette') else []
            return self._map(Segmentation, sample, about, names, palette)
        field = 'pred_rotated_instances' if task == 'rotated' else 'pred_instances'
        return self.objects(sample.get(field), dataset, about)

    def of_sample(self, sample: Any, dataset: str, record: Mapping, about: Mapping) -> Result:
        """Return the result of a sample of mmpretrain, mmdet, mmrotate or mmseg."""
        meta = self.model.datasets[dataset]
        names, palette = meta['classes'], meta.get('palette') or ()
        if 'pred_score' in sample:
            scores = sample.pred_score.float().cpu().numpy()
            return Classification(**about, **_named(names, palette), scores=scores)
        if 'pred_sem_seg' in sample:
            kind = Change if self.model.loader.is_pair else Segmentation
            return self._map(kind, sample, about, names, palette, record.get('no_data'))
        return self.objects(sample.pred_instances, dataset, about)

    def objects(self, found: Any, dataset: str, about: Mapping) -> Detections:
        """Return the objects of an image that are kept, by falling score."""
        meta = self.model.datasets[dataset]
        boxes = get_box_tensor(found.bboxes).float().cpu()
        scores, labels = found.scores.float().cpu(), found.labels.cpu()
        keep = scores >= self.score
        if self.classes is not None:
            wanted = torch.tensor([name in self.classes for name in meta['classes']])
            keep &= wanted[labels]
        order = scores.argsort(descending=True, stable=True)
        order = order[keep[order]][: self.max_objects]
        kind = self.kind_of(boxes.shape[1])
        if kind is RotatedDetections:
            boxes = RotatedBoxes(boxes).regularize_boxes('le90')
        masks = found.get('masks')
        return kind(
            **about,
            **_named(meta['classes'], meta.get('palette') or ()),
            boxes=boxes[order].numpy(),
            scores=scores[order].numpy(),
            labels=labels[order].numpy(),
            masks=None if masks is None else _bitmaps(masks, order),
        )

    def _map(
        self,
        kind: type[Segmentation],
        sample: Any,
        about: Mapping,
        names: Sequence[str],
        palette: Sequence,
        no_data: np.ndarray | None = None,
    ) -> Segmentation:
        probabilities = probabilities_of(sample.seg_logits.data)
        found = sample.pred_sem_seg.get('data', sample.pred_sem_seg.get('sem_seg'))
        labels = found[0].cpu().numpy().astype(np.uint8)
        if no_data is not None:
            labels[no_data] = IGNORED
        return kind(**about, **_named(names, palette), labels=labels, probabilities=probabilities)


def _bitmaps(masks: Any, order: Tensor) -> np.ndarray:
    chosen = masks[order.to(masks.device)] if isinstance(masks, Tensor) else masks[order.numpy()]
    return np.asarray(chosen.cpu() if isinstance(chosen, Tensor) else chosen.masks).astype(bool)


def _named(names: Sequence[str], palette: Sequence) -> dict[str, Any]:
    return dict(classes=tuple(names), palette=tuple(tuple(colour) for colour in palette))


def _is_image(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | np.ndarray | Image.Image)
