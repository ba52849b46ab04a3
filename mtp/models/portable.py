"""A model's config as plain data: json with types by dotted name, which cannot run code.

Checkpoints carry it, so that a file alone makes a model. Whoever wrote the file is not trusted:
names are looked up in a table of classes, and never imported or executed.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from mmengine import registry as root
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry
from torch import nn

from mtp.files import UnusableFileError
from mtp.registry import MODELS, TASK_UTILS, TRANSFORMS

LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrotate', 'mmpretrain')
# Functions that mtp's configs use in place of a class.
FUNCTIONS = ('mtp.models.backbones.factory.build_backbone',)
# Values of `type` that are no classes: operators, by the names that mmcv's functions know.
OPERATORS = ('nms', 'nms_rotated', 'soft_nms', 'RoIAlign', 'RoIAlignRotated')
# Registered, but able to run text, read pickles or open addresses that a config names.
DENIED = (
    'mmcv.cnn.rfsearch',
    'mmdet.datasets.transforms.text_transformers',
    'mmdet.models.dense_heads.atss_vlfusion_head',
    'mmdet.models.detectors.kd_one_stage',
    'mmdet.models.detectors.lad',
    'mmdet.models.language_models',
    'mmdet.models.task_modules.tracking',
    'mmpretrain.datasets.transforms.processing.ToTensor',
    'mmpretrain.models.classifiers.hugging_face',
    'mmpretrain.models.classifiers.timm',
    'mmpretrain.models.heads.vqa_head',
    'mmpretrain.models.multimodal',
    'mmpretrain.models.retrievers',
    'mmpretrain.models.selfsup',
    'mmpretrain.models.utils.huggingface',
    'mmpretrain.models.utils.tokenizer',
    'mmpretrain.models.utils.vector_quantizer',
    'mmpretrain.models.backbones.timm_backbone',
    'mmseg.models.backbones.timm_backbone',
    'mmseg.models.backbones.vpd',
    'mmseg.models.text_encoder',
)
# Arguments by which classes load further files: a model is complete with its checkpoint.
LOADING = ('init_cfg', 'pretrained', 'checkpoint', 'teacher_config', 'teacher_ckpt', 'backend_args')
_TUPLE = 'tuple of'  # key of a tuple, which json does not have
_DEPTH = 50  # of a config


def to_plain(value: Any) -> Any:
    """Return a config as plain data; what loads further files (:data:`LOADING`) is left out.

    Args:
        value: config of a model or a pipeline, with classes or registered names as types.

    Raises:
        ValueError: it holds an object that is neither plain nor a class or function.
    """
    if isinstance(value, LazyObject | LazyAttr):
        value = value.build()
    if isinstance(value, Mapping):
        return {
            str(key): _type_name(entry) if key == 'type' else to_plain(entry)
            for key, entry in value.items()
            if key not in LOADING
        }
    if isinstance(value, tuple):
        return {_TUPLE: [to_plain(entry) for entry in value]}
    if isinstance(value, list):
        return [to_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if inspect.isclass(value) or inspect.isfunction(value):
        return dict(name=_name(value))
    raise ValueError(f'a config that holds {value!r:.60} cannot be kept as json')


def from_plain(value: Any, allow: Collection[str] = ()) -> Any:
    """Return the config that :func:`to_plain` returned, with classes as types.

    Args:
        value: content of a json, which is not trusted.
        allow: packages of one's own, of which classes may be used, too.

    Raises:
        UnusableFileError: it names what is in no table, or a file or address to load.
    """
    return _Reader(allow).read(value)


class _Reader:
    def __init__(self, allow: Collection[str]) -> None:
        self.allow = allow

    def read(self, value: Any, depth: int = 0) -> Any:
        if depth > _DEPTH:
            raise UnusableFileError('its config is nested too deeply')
        if isinstance(value, list):
            return [self.read(entry, depth + 1) for entry in value]
        if isinstance(value, str) and '://' in value:
            raise UnusableFileError(
                f'its config names the address {value:.80}, which is not opened'
            )
        if not isinstance(value, Mapping):
            return value
        if set(value) == {_TUPLE}:
            return tuple(self.read(value[_TUPLE], depth + 1))
        if set(value) == {'name'} and isinstance(value['name'], str) and '.' in value['name']:
            return self.find(value['name'])
        return {
            key: self.type_of(entry) if key == 'type' else self.read(entry, depth + 1)
            for key, entry in value.items()
            if key not in LOADING
        }

    def type_of(self, name: Any) -> Any:
        return name if name in OPERATORS else self.find(name)

    def find(self, name: Any) -> Any:
        """Return a class or function by its dotted name."""
        if isinstance(name, str):
            for package in (*LIBRARIES, 'mtp'):
                if name.startswith(f'{package}.') and name in table(package):
                    return table(package)[name]
            if name in layers():
                return layers()[name]
            if any(name.startswith(f'{package}.') for package in self.allow):
                return _import(name)
        raise UnusableFileError(
            f'its config names {str(name)!r:.80}, which is no registered class: if you trust it, '
            "give allow=['PACKAGE'] with its package"
        )


def _type_name(type_: Any) -> str:
    """Return the dotted name of a type: a class, a function or a registered name."""
    if isinstance(type_, LazyObject | LazyAttr):
        type_ = type_.build()
    if not isinstance(type_, str):
        return _name(type_)
    if type_ in OPERATORS:
        return type_
    if '.' in type_:
        return _name(_import(type_))  # of the config of this run, which is trusted
    for registry in (MODELS, TASK_UTILS, TRANSFORMS):
        found = registry.get(type_)
        if found is not None:
            return _name(found)
    raise ValueError(f'the type {type_!r} is registered nowhere')


def _name(found: Any) -> str:
    return f'{found.__module__}.{found.__qualname__}'


def _import(name: str) -> Any:
    module, _, attribute = name.rpartition('.')
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnusableFileError(f'its config names {name}, which is not there: {error}') from error


@functools.cache
def table(package: str) -> dict[str, Callable]:
    """Return the classes that a package has registered, and the functions allowed: name -> it."""
    found: dict[str, Callable] = {}
    for registry in (root.MODELS, root.TASK_UTILS, root.TRANSFORMS):
        for each in _with_children(registry):
            if each.scope == package:
                each.import_from_location()
            found |= {
                _name(entry): entry
                for entry in each.module_dict.values()
                if inspect.isclass(entry) and entry.__module__.partition('.')[0] == package
            }
    if package == 'mtp':
        found |= {name: _import(name) for name in FUNCTIONS}
    return {
        name: entry
        for name, entry in found.items()
        if not any(f'{name}.'.startswith(f'{denied}.') for denied in DENIED)
    }


def _with_children(registry: Registry) -> Iterator[Registry]:
    yield registry
    for child in registry.children.values():
        yield from _with_children(child)


@functools.cache
def layers() -> dict[str, type[nn.Module]]:
    """Return torch's layers: dotted name -> class."""
    found = {
        entry
        for entry in vars(nn).values()
        if inspect.isclass(entry) and issubclass(entry, nn.Module)
    }
    return {_name(entry): entry for entry in found}
