"""From a folder or a data.yaml to a config: ``mtp train --data``."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from mtp.data.bands import stored_type
from mtp.data.datasets.base import TASKS as FINETUNING
from mtp.data.own.contents import Data, read_data
from mtp.data.own.importing import KIND_OF, Options, import_data, kind_of, suits
from mtp.data.own.importing import TASKS as TASK_OF
from mtp.data.own.rasters import is_rgb
from mtp.data.own.recognition import FORMS, Found, Part, recognise
from mtp.data.samrs.subsets import SUBSETS
from mtp.files import UnusableFileError, write_text
from mtp.machine import LAUNCHERS
from mtp.models.backbones import list_backbones
from mtp.models.weights.catalogue import CATALOGUE
from mtp.models.weights.released import RELEASED, folders
from mtp.models.weights.sources import find_weights
from mtp.recipes.own_config import Source, write_config
from mtp.recipes.planning import Facts, plan
from mtp.spelling import suggest

TASKS = (*FINETUNING, 'pretraining')
DEFAULT_WEIGHTS = ('mtp', 'mae')
MAX_WORKERS = 4  # processes of a loader, as in the recipes
WAIT = 3600  # seconds that other processes wait for the config of the first


@dataclass(frozen=True)
class Request:
    """Training on one's own data that is asked for.

    Attributes:
        data: folders, or ``data.yaml`` files.
        encoder: name of a backbone.
        weights: name or path of weights, ``'none'``, or None for the released ones.
        task: task; None to choose it by the labels.
        form: key of :data:`mtp.data.own.recognition.FORMS`; None to find it.
        class_column: column of the class in vector labels; None to find it.
        options: options of the import of data in another layout, but for the kind.
        work_dir: work directory; None for ``work_dirs/<task>/<data>/<encoder>``.
        launcher: ``'none'``, or a key of :data:`mtp.machine.LAUNCHERS`; the first process writes.
        keep_empty: whether images without objects are trained on.
    """

    data: Sequence[Path]
    encoder: str
    weights: str | None = None
    task: str | None = None
    form: str | None = None
    class_column: str | None = None
    options: Options = Options()
    work_dir: Path | None = None
    launcher: str = 'none'
    keep_empty: bool = False


def own_config(request: Request) -> tuple[Path, Path, list[str]]:
    """Write the config of a training on one's own data; keep one that exists.

    Data that are not in the layout of ``mtp data import`` are imported into the work directory.

    Returns:
        tuple: path of the config, the work directory, and lines to print.

    Raises:
        FileNotFoundError: data, or the weights, are missing.
        ValueError: encoder, weights or task are unknown, or do not fit the data.
    """
    encoder, launcher = request.encoder, request.launcher
    checkpoint = choose_weights(encoder, request.weights)
    found = [recognise(path, request.form) for path in request.data]
    contents = [read_data(each, request.class_column) for each in found]
    task = choose_task(contents, request.task)
    name = '+'.join(_name(path) for path in request.data)
    work_dir = request.work_dir or Path('work_dirs', task, name, encoder)
    path = work_dir / 'config' / f'{encoder}.py'
    if launcher != 'none' and int(os.environ.get(LAUNCHERS[launcher].rank, 0)) > 0:
        return _wait_for(path), work_dir, []
    if path.is_file():
        return path, work_dir, [f'config: {path} exists and is used; remove it to write it again']
    lines, sources = [], []
    imported = []
    options = replace(request.options, kind=KIND_OF[task])
    changes = bool(options.bands or options.stretch)
    for where, content in zip(request.data, contents):
        images = [sample.image for sample in content.samples]
        if changes or not _is_imported(content.found, task, images):
            target = work_dir / 'data' / _name(where)
            if (target / 'data.yaml').is_file():
                lines.append(f'data: {target} exists and is used; remove it to import again')
            else:
                _import(content, target, options)
                lines.append(f'data: {where} is imported into {target}, by links where possible')
            content = read_data(recognise(target))
        _refuse(content.found.root, content.faults)
        imported.append(content)
        sources.append(_source(content, _name(where)))
    # the readers of boxes leave out images without objects
    whole = request.keep_empty or task not in ('horizontal_detection', 'rotated_detection')
    training = [
        sample
        for each in imported
        for sample in each.samples
        if sample.split == 'train' and (whole or sample.objects)
    ]
    if not training:
        raise UnusableFileError(f'{request.data[0]}: no training image has an object')
    facts = Facts(
        task=task,
        images=len(training),
        side=int(median(max(sample.size) for sample in training)),
        encoder=encoder,
        pretrained=checkpoint is not None,
        memory=_device_memory(),
        processes=1 if launcher == 'none' else int(os.environ[LAUNCHERS[launcher].world_size]),
    )
    made = plan(facts)
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    write_text(
        path, write_config(task, sources, facts, made, checkpoint, workers, request.keep_empty)
    )
    lines += [f'task: {task}', *made.reasons, f'config: {path}']
    return path, work_dir, lines


def choose_weights(encoder: str, weights: str | None) -> str | None:
    """Return the name or path of the weights of an encoder; None to start from random ones.

    Raises:
        FileNotFoundError: the file is missing; the message says where it is looked for.
        ValueError: the encoder is unknown, or has no weights of this name.
    """
    if encoder not in list_backbones():
        raise ValueError(
            f'--encoder {encoder}: unknown{suggest(encoder, list_backbones())}; there are '
            f'{", ".join(list_backbones())}'
        )
    names = RELEASED.get(encoder, {})
    if weights is None:
        weights = next((name for name in DEFAULT_WEIGHTS if name in names), None)
        if weights is None:
            raise ValueError(
                f'--encoder {encoder} has no weights of the names {" or ".join(DEFAULT_WEIGHTS)}: '
                'give --weights PATH, or --weights none to start from random ones'
            )
    if weights == 'none':
        return None
    path = find_weights(encoder, weights)
    if not path.exists():
        places = folders() if weights in (*names, *CATALOGUE) else [path.parent]
        raise FileNotFoundError(
            f'--weights {weights}: no file {path.name}; looked for it in '
            f'{" and ".join(map(str, places))}: put it there (docs/model_zoo.md says where '
            'it is from), give --weights PATH, or --weights none to start from random ones'
        )
    return weights


def choose_task(contents: Sequence[Data], task: str | None) -> str:
    """Return the task: the given one if the data fit it, else the one that follows from them.

    Raises:
        ValueError: the task is unknown, or the data do not fit it.
    """
    kinds = [kind_of(content) for content in contents]
    if task is not None and task not in TASKS:
        raise ValueError(
            f'--task {task}: unknown{suggest(task, TASKS)}; there are {", ".join(TASKS)}'
        )
    if len(contents) > 1 and task not in (None, 'pretraining'):
        raise ValueError(f'--task {task} takes one data set; several are for pretraining')
    if len(contents) > 1 or task == 'pretraining':
        for content, kind in zip(contents, kinds):
            if not suits(kind, 'masks'):
                raise ValueError(
                    f'{content.found.root} holds {FORMS[content.found.form]}, and pretraining '
                    'learns from masks, boxes, rotated boxes and label maps of single images: '
                    'leave it out, or train on it alone'
                )
        return 'pretraining'
    (kind,) = kinds
    if task is None or suits(kind, KIND_OF[task]):
        return task or TASK_OF[kind]
    raise ValueError(
        f'--task {task}: {contents[0].found.root} has labels for {TASK_OF[kind]}: leave out '
        '--task, or give other data'
    )


def _is_imported(found: Found, task: str, images: Sequence[Path]) -> bool:
    """Return whether the data lie in the layout that the configs of a task read."""
    splits = {part.split for part in found.parts}
    if not {'train', 'val'} <= splits or found.description is None:
        return False
    if not found.description.bands and not all(map(is_rgb, images)):
        return False  # its bands are to be measured
    return all(_fits(found, task, part) for part in found.parts)


def _fits(found: Found, task: str, part: Part) -> bool:
    root, split = found.root, part.split or ''
    folders = dict(
        classification=('classes', root / split, None, None),
        segmentation=('maps', root / split / 'images', root / split / 'labels', None),
        change_detection=('pairs', root / split / 'A', root / split / 'label', root / split / 'B'),
        rotated_detection=('dota', root / split / 'images', root / split / 'labels', None),
        horizontal_detection=('coco', root / split / 'images', root / f'{split}.json', None),
        pretraining=('coco', root / SUBSETS['sota'].images, None, None),
    )
    form, images, labels, later = folders[task]
    return (
        found.form == form
        and part.images == images
        and (labels is None or part.labels == labels)
        and part.later == later
    )


def _import(content: Data, target: Path, options: Options) -> None:
    report = import_data(content, target, options)
    if report.bad:  # the next start would take what there is
        shutil.rmtree(target)
    _refuse(content.found.root, report.bad)


def _refuse(root: Path, faults: Sequence[str]) -> None:
    """Refuse data with faults.

    Raises:
        UnusableFileError: there are any.
    """
    if faults:
        raise UnusableFileError(
            f'{root}: {len(faults):,} could not be used, the first: {faults[0]}. '
            f'`mtp data inspect {root}` lists all'
        )


def _source(content: Data, name: str) -> Source:
    description = content.found.description
    assert description is not None
    test = any(part.split == 'test' for part in content.found.parts)
    if not content.map_classes:
        raise UnusableFileError(
            f'{description.path}: add `names`, the classes of the label maps in the order of their '
            'values from 0 on, or `label_values`'
        )
    scenes = (description.root / 'scenes' / 'val.json').is_file()
    tasks = _pretraining_tasks(content)
    values = content.label_values if content.found.form in ('maps', 'pairs') else {}
    source = Source(
        root=description.root,
        classes=content.map_classes,
        test=test,
        label_values=values,
        scenes=scenes,
        tasks=tasks,
        masks='instance' not in tasks or content.masked,
        name=name,
    )
    return _with_bands(source, content)


def _pretraining_tasks(content: Data) -> tuple[str, ...]:
    """Return the tasks that imported data have labels for, if they are for pretraining."""
    root, layout = content.found.root, SUBSETS['sota']
    found = {
        'semantic': (root / layout.semantic).is_dir(),
        'instance': any(sample.objects for sample in content.samples),
        'rotated': (root / layout.rotated).is_dir(),
    }
    return tuple(task for task, present in found.items() if present)


def _with_bands(source: Source, content: Data) -> Source:
    """Add the bands that are to be loaded, and their mean and deviation."""
    described = content.found.description
    assert described is not None
    bands = described.bands
    if described.stretch:  # the files hold just these, as 8 bits
        bands = tuple(range(1, len(bands) + 1)) if len(bands) not in (1, 3) else ()
    source = replace(source, bands=bands, mean=described.mean, std=described.std)
    if not bands:
        return source
    _, dtype = stored_type(content.samples[0].image)
    return replace(source, dtype=dtype, nodata=None if described.stretch else described.nodata)


def _name(path: Path) -> str:
    """Return the name of a data set: that of its folder, as a Python name."""
    folder = path.resolve().parent if path.suffix in ('.yaml', '.yml') else path.resolve()
    return ''.join(letter if letter.isalnum() else '_' for letter in folder.name)


def _device_memory() -> float | None:
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def _wait_for(path: Path) -> Path:
    for _ in range(WAIT):
        if path.is_file():
            return path
        time.sleep(1)
    raise UnusableFileError(f'the first process wrote no {path} within {WAIT} s')
