"""What a checkpoint tells of its model, so that the file alone suffices to predict.

``meta['mtp_model']`` is a json text: config of the model and of the transforms before it, classes,
task, bands, and where the data came from (:mod:`mtp.models.portable`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

import mtp
from mtp.data.description import read_description
from mtp.engine import provenance
from mtp.fallback import fall_back
from mtp.files import UnusableFileError
from mtp.models import portable
from mtp.registry import short_name

KEY = 'mtp_model'
FORMAT = 1
# Transforms that read labels, which a prediction does without.
_LABELS = ('LoadAnnotations', 'LoadLabels', 'LoadClassMap', 'LoadChange', 'ConvertBoxType')
_OF_SCENES = ('gsd', 'bands', 'nodata', 'stretch')  # keys of a data.yaml


def describe(
    cfg: Config, model: nn.Module, dataset: Any, data: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return the text for a checkpoint; None, said once, where the config cannot be kept as data.

    Args:
        cfg: config of the run.
        model: its model.
        dataset: its training data.
        data: fingerprints of the data, as :func:`mtp.engine.provenance.of_training` returns them.
    """
    scope = cfg.get('default_scope', 'mtp')
    try:
        with DefaultScope.overwrite_default_scope(scope):
            content = dict(
                format=FORMAT,
                mtp=mtp.__version__,
                task=task_of(model, scope),
                scope=scope,
                model=portable.to_plain(cfg.model),
                pipeline=portable.to_plain(_pipeline(cfg)),
                datasets=_datasets(dataset),
                scenes=_scenes(dataset),
                data=list(data),
            )
        return json.dumps(content)
    except Exception as error:  # of a config of a kind that nobody has thought of
        fall_back('a checkpoint that describes its model', 'mtp.load needs config= for it', error)
        return None


def of_config(cfg: Config, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a checkpoint of before, from the config of its training.

    Args:
        cfg: the config, which is trusted.
        meta: meta information of the checkpoint, whose ``dataset_meta`` has the classes.

    Raises:
        UnusableFileError: there are no classes in it.
    """
    scope = cfg.get('default_scope', 'mtp')
    metainfo = meta.get('dataset_meta')
    datasets = _of_metainfo(metainfo if isinstance(metainfo, Mapping) else {})
    if not all(each.get('classes') for each in datasets.values()):
        raise UnusableFileError('it does not tell its classes (meta.dataset_meta)')
    with DefaultScope.overwrite_default_scope(scope):
        plain = dict(model=portable.to_plain(cfg.model), pipeline=portable.to_plain(_pipeline(cfg)))
        content = {key: portable.from_plain(value) for key, value in plain.items()}
    kind = content['model']['type']
    return content | dict(task=_task_of(kind, scope), scope=scope, datasets=datasets, scenes={})


def task_of(model: nn.Module, scope: str) -> str:
    """Return the task of a model: one of finetuning, ``'pretraining'``, or ``'other'``."""
    return _task_of(type(model), scope)


def _task_of(kind: type, scope: str) -> str:
    detection = 'rotated_detection' if scope == 'mmrotate' else 'horizontal_detection'
    kinds = {  # by name: imports of all libraries would slow each start down
        'MultiTaskPretrainer': 'pretraining',
        'BaseDetector': detection,
        'SiameseEncoderDecoder': 'change_detection',
        'BaseSegmentor': 'segmentation',
        'BaseClassifier': 'classification',
    }
    names = {base.__name__ for base in kind.__mro__}
    return next((task for name, task in kinds.items() if name in names), 'other')


def _pipeline(cfg: Config) -> list[dict]:
    """Return the transforms of a test without those that read labels."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    (dataset, *_) = provenance.parts(loader.get('dataset'))
    if not isinstance(dataset, Mapping) or 'pipeline' not in dataset:
        return []
    return [step for step in dataset['pipeline'] if short_name(step['type']) not in _LABELS]


def _datasets(dataset: Any) -> dict[str, dict]:
    """Return name of a data set -> its classes, colours and tasks; a single one is called ''."""
    return _of_metainfo(getattr(dataset, 'metainfo', {}))


def _of_metainfo(metainfo: Mapping[str, Any]) -> dict[str, dict]:
    every = metainfo.get('datasets', {'': metainfo})
    return {
        name: dict(
            classes=list(meta.get('classes') or ()),
            palette=[list(colour) for colour in meta.get('palette') or ()],
            tasks=list(meta.get('tasks') or ()),
        )
        for name, meta in every.items()
    }


def _scenes(dataset: Any) -> dict[str, Any]:
    """Return what the ``data.yaml`` of the first data set says of the scenes it was made from."""
    (dataset, *_) = provenance.parts(dataset)
    root = getattr(dataset, 'data_root', None) or getattr(dataset, 'root', None)
    path = Path(root or '.') / 'data.yaml'
    if not root or not path.is_file():
        return {}
    description = read_description(path)
    found = {key: getattr(description, key) for key in _OF_SCENES}
    return {key: value for key, value in found.items() if value not in (None, (), '')}
