"""Config of a training on one's own data, written as one would write it by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtp.recipes.planning import Facts, Plan

PRETRAINING_TASKS = ('semantic', 'instance', 'rotated')
TINY = ('vit_tiny_rvsa', 'internimage_pico')  # encoders that get small decoders


@dataclass(frozen=True)
class Source:
    """Imported data set.

    Attributes:
        root: its root folder, with a ``data.yaml``.
        classes: class names in label order.
        test: whether it has a test split.
        label_values: value of a label map -> class name; empty if the values speak for themselves.
        scenes: whether it has the uncut labels of the scenes that its tiles were cut from.
        tasks: tasks that it has labels for, in a pretraining.
        masks: whether its instances have masks, or boxes alone, in a pretraining.
        name: name of the data set in a pretraining.
        bands: indices of the bands to load, from 1 on; empty for 8-bit RGB.
        dtype: type of the values of the bands.
        nodata: value of pixels without data; None for that of each file.
        mean: mean of each band; empty for the encoder's.
        std: standard deviation of each band; empty for the encoder's.
    """

    root: Path
    classes: tuple[str, ...]
    test: bool = False
    label_values: Mapping[int | str, str] = field(default_factory=dict)
    scenes: bool = False
    tasks: tuple[str, ...] = PRETRAINING_TASKS
    masks: bool = True
    name: str = ''
    bands: tuple[int, ...] = ()
    dtype: str = 'uint8'
    nodata: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def write_config(
    task: str,
    sources: Sequence[Source],
    facts: Facts,
    plan: Plan,
    weights: str | None,
    workers: int,
    keep_empty: bool = False,
) -> str:
    """Return the text of a config.

    Args:
        task: finetuning task, or ``'pretraining'``.
        sources: imported data sets; several for a pretraining only.
        facts: what the plan follows from.
        plan: batch, schedule and sizes.
        weights: name or path of the encoder's weights; None to start from random ones.
        workers: number of processes of a loader.
        keep_empty: whether images without objects are trained on.
    """
    parts = _TASKS[task](sources, facts, plan, keep_empty)
    data = ', '.join(str(source.root) for source in sources)
    lines = [
        f'"""{task} on {data} ({facts.images:,} images), written by `mtp train --data`.',
        '',
        *(f'{reason[0].upper()}{reason[1:]}.' for reason in plan.reasons),
        '"""',
        '',
        'from mmengine.config import read_base',
        '',
        *parts.imports,
        *_band_imports(task, sources[0]),
        '',
        'with read_base():',
        *(f'    from mtp.configs._base_.{base} import {names}' for base, names in parts.bases),
        '',
        *parts.body,
        *_bands(task, sources[0]),
        '',
        *_weights(weights),
        f'total_batch_size = {plan.batch}',
        *(f'{loader}_dataloader.num_workers = {workers}' for loader in ('train', 'val', 'test')),
    ]
    if plan.images_per_gpu is not None:
        lines.append(f'images_per_gpu = {plan.images_per_gpu}')
    if plan.lr_factor != 1:
        lines.append(f'optim_wrapper.optimizer.lr *= {plan.lr_factor}')
    return '\n'.join([*lines, *parts.schedule, ''])


@dataclass(frozen=True)
class _Parts:
    """Parts of a config that depend on the task."""

    imports: list[str]
    bases: list[tuple[str, str]]  # module below configs/_base_, and what is imported
    body: list[str]
    schedule: list[str]


def _weights(weights: str | None) -> list[str]:
    if weights is None:
        return [
            'model.backbone.init_cfg = None',
            'optim_wrapper.paramwise_cfg.layer_decay_rate = 1.0  # nothing is pretrained',
        ]
    return [f"model.backbone.init_cfg = dict(type='Pretrained', checkpoint={weights!r})"]


def _band_imports(task: str, source: Source) -> list[str]:
    if not source.bands or task == 'pretraining':
        return []
    return ['from mtp.data import LoadBands' + (', LoadPair' * (task == 'change_detection'))]


def _bands(task: str, source: Source) -> list[str]:
    """Return the lines for images of other than 8-bit RGB, as in docs/bands.md."""
    lines: list[str] = []
    if task == 'pretraining':  # takes 8-bit RGB only, of which the import takes care
        return lines
    if source.bands:
        given = '' if source.nodata is None else f', nodata={source.nodata}'
        load = f'dict(type=LoadBands, bands={list(source.bands)}, dtype={source.dtype!r}{given})'
        if task == 'change_detection':
            load = f'dict(type=LoadPair, image={load})'
        lines += [
            '',
            '# augmentations of colour are left out for other than 8-bit RGB; the log names them',
            f'_load = {load}',
            'for _loader in (train_dataloader, val_dataloader, test_dataloader):',
            '    _loader.dataset.pipeline[0] = _load',
            f'model.backbone.in_chans = {len(source.bands)}',
        ]
    if source.mean:
        mean, std = ([float(f'{v:.6g}') for v in values] for values in (source.mean, source.std))
        lines.append(f'model.data_preprocessor.update(mean={mean}, std={std})')
    return lines


def _bases(facts: Facts, recipe: str) -> list[tuple[str, str]]:
    return [(f'finetune.backbones.{facts.encoder}', '*'), (f'finetune.{recipe}', '*')]


def _epochs(plan: Plan, *, cosine: bool) -> list[str]:
    """Return the lines of a schedule that counts epochs."""
    lines = [
        f'train_cfg.update(max_epochs={plan.epochs}, val_interval={plan.val_interval})',
        f'default_hooks.checkpoint.interval = {plan.val_interval}',
    ]
    if cosine:
        steps = plan.updates // plan.epochs
        warm = max(1, round(plan.warmup / steps))
        return [
            *lines,
            f'param_scheduler[0].end = {warm}',
            f'param_scheduler[1].update(begin={warm}, T_max={max(1, plan.epochs - warm)})',
        ]
    first, second = max(1, round(plan.epochs * 2 / 3)), max(2, round(plan.epochs * 11 / 12))
    return [
        *lines,
        f'param_scheduler[0].end = {plan.warmup}',
        f'param_scheduler[1].milestones = [{first}, {second}]',
    ]


def _iterations(plan: Plan, *, warmup: bool) -> list[str]:
    """Return the lines of a schedule that counts steps."""
    interval = max(1, plan.val_interval * (plan.updates // plan.epochs))
    lines = [
        f'train_cfg.update(max_iters={plan.updates}, val_interval={interval})',
        f'default_hooks.checkpoint.interval = {interval}',
    ]
    if not warmup:
        return [*lines, f'param_scheduler[0].T_max = {plan.updates}']
    begin = plan.warmup
    return [
        *lines,
        f'param_scheduler[0].end = {begin}',
        f'param_scheduler[1].update(begin={begin}, T_max={plan.updates - begin})',
    ]


def _classification(
    sources: Sequence[Source], facts: Facts, plan: Plan, keep_empty: bool
) -> _Parts:
    (source,) = sources
    return _Parts(
        ['from mtp.data import SceneDataset'],
        _bases(facts, 'classification.classifier'),
        [
            'model.merge(classifier)',
            f'model.head.num_classes = {len(source.classes)}',
            'optim_wrapper.merge(optimization)',
            '',
            *_data('SceneDataset', source, classes=source.classes),
            "train_dataloader.dataset.update(_data, data_prefix='train')",
            "val_dataloader.dataset.update(_data, data_prefix='val')",
            *_test(source, "data_prefix='test'"),
        ],
        _epochs(plan, cosine=True),
    )


def _detection(source: Source, facts: Facts, plan: Plan) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the base of small decoders and the lines that all detectors share."""
    tiny = facts.encoder in TINY
    body = [
        *(['model.merge(small_detector)'] if tiny else []),
        'model.merge(detector)',
        f'model.backbone.update(img_size={plan.side}, with_cp={not tiny})',
        f'model.roi_head.bbox_head.num_classes = {len(source.classes)}',
        'optim_wrapper.merge(optimization)'
        if tiny
        else "optim_wrapper.paramwise_cfg.merge(optimization['paramwise_cfg'])",
        '',
    ]
    small = [('pretrain.models.multitask_small', 'small_detector')]
    return (small if tiny else []), body


def _horizontal(sources: Sequence[Source], facts: Facts, plan: Plan, keep_empty: bool) -> _Parts:
    (source,) = sources
    small, body = _detection(source, facts, plan)
    size = (plan.side, plan.side)
    return _Parts(
        ['from mtp.data import COCODetection', *_scene_import(source, 'SceneDetections')],
        [*_bases(facts, 'horizontal_detection.dior'), *small],
        [
            *body,
            f'train_pipeline[2].scale = test_pipeline[1].scale = {size}',
            *_data('COCODetection', source, classes=source.classes),
            'train_dataloader.dataset.pipeline = train_pipeline',
            'test_dataloader.dataset.pipeline = test_pipeline',
            *_boxes("ann_file='{split}.json', data_prefix=dict(img='{split}/images')", keep_empty),
            *_test(source, "ann_file='test.json', data_prefix=dict(img='test/images')"),
            *_scenes(source, 'SceneDetections'),
        ],
        _epochs(plan, cosine=False),
    )


def _rotated(sources: Sequence[Source], facts: Facts, plan: Plan, keep_empty: bool) -> _Parts:
    (source,) = sources
    small, body = _detection(source, facts, plan)
    size = (plan.side, plan.side)
    paths = "ann_file='{split}/labels', data_prefix=dict(img_path='{split}/images')"
    return _Parts(
        [
            'from mtp.data import BoxFilesDetection',
            'from mtp.evaluation import RotatedMetric',
            *_scene_import(source, 'SceneDetections'),
        ],
        [*_bases(facts, 'rotated_detection.oriented_rcnn'), *small],
        [
            *body,
            f'train_pipeline[3].scale = val_pipeline[1].scale = {size}',
            *_data('BoxFilesDetection', source, format='dota', classes=source.classes),
            'train_dataloader.dataset.pipeline = train_pipeline',
            'test_dataloader.dataset.pipeline = val_pipeline',
            'test_evaluator = dict(type=RotatedMetric)',
            *_boxes(paths, keep_empty),
            *_test(source, paths.format(split='test')),
            *_scenes(source, 'SceneDetections'),
        ],
        _epochs(plan, cosine=False),
    )


def _boxes(paths: str, keep_empty: bool) -> list[str]:
    return [
        f'train_dataloader.dataset.update(_data, {paths.format(split="train")})',
        f'train_dataloader.dataset.filter_cfg = dict(filter_empty_gt={not keep_empty})',
        f'test_dataloader.dataset.update(_data, {paths.format(split="val")})',
        'val_dataloader, val_evaluator = test_dataloader, test_evaluator',
    ]


def _segmentation(sources: Sequence[Source], facts: Facts, plan: Plan, keep_empty: bool) -> _Parts:
    (source,) = sources
    size, number = (plan.side, plan.side), len(source.classes)
    return _Parts(
        ['from mtp.data import SegmentationDataset', *_scene_import(source, 'SceneMaps')],
        _bases(facts, 'segmentation.spacenet_v1'),
        [
            'model.merge(segmentor)',
            f'model.merge(dict(data_preprocessor=dict(size={size}), backbone=dict(img_size='
            f'{plan.side}),',
            f'                 decode_head=dict(num_classes={number}, out_channels={number}),',
            f'                 test_cfg=dict(crop_size={size}, stride={_two_thirds(size)})))',
            *(['model.decode_head.channels = 64'] if facts.encoder in TINY else []),
            'optim_wrapper.merge(optimization)',
            '',
            f'train_pipeline[2].scale = train_pipeline[3].crop_size = {size}',
            'for _step in (train_pipeline[1], test_pipeline[1]):',
            f'    _step.num_classes = {number}',
            *_data('SegmentationDataset', source, classes=source.classes),
            "train_dataloader.dataset = dict(_data, split='train', pipeline=train_pipeline)",
            'test_dataloader.dataset = dict(',
            "    _data, split='val', pipeline=test_pipeline, test_mode=True)",
            'val_dataloader, val_evaluator = test_dataloader, test_evaluator',
            *_test(source, "split='test'"),
            *_scenes(source, 'SceneMaps'),
        ],
        _iterations(plan, warmup=True),
    )


def _change(sources: Sequence[Source], facts: Facts, plan: Plan, keep_empty: bool) -> _Parts:
    (source,) = sources
    size = (plan.side, plan.side)
    return _Parts(
        ['from mtp.data import ChangeDataset', *_scene_import(source, 'SceneMaps')],
        _bases(facts, 'change_detection.siamese_unet'),
        [
            'model.merge(change_detector)',
            f'model.merge(dict(data_preprocessor=dict(size={size}), backbone=dict(img_size='
            f'{plan.side})))',
            'optim_wrapper.merge(optimization)',
            '',
            f'train_pipeline[3].crop_size = {size}',
            *_data('ChangeDataset', source),
            "train_dataloader.dataset = dict(_data, split='train', pipeline=train_pipeline)",
            'val_dataloader.dataset = dict(',
            "    _data, split='val', pipeline=test_pipeline, test_mode=True)",
            'test_dataloader, test_evaluator = val_dataloader, val_evaluator',
            *_test(source, "split='test'", loader='val_dataloader'),
            *_scenes(source, 'SceneMaps'),
        ],
        _epochs(plan, cosine=True),
    )


def _pretraining(sources: Sequence[Source], facts: Facts, plan: Plan, keep_empty: bool) -> _Parts:
    tiny = facts.encoder in TINY
    body = [
        'num_classes = dict(',
        *(f'    {s.name}=dict(num_classes={len(s.classes)}{_labels(s)}),' for s in sources),
        ')',
        'model.merge(dict(',
        f'    datasets=num_classes, data_preprocessor=dict(pad_size_divisor={plan.side}),',
        f'    backbone=dict(type=build_backbone, name={facts.encoder!r}, img_size={plan.side})))',
        f'train_pipeline[0].size = {plan.side}',
        f'test_pipeline[1].scale = {(plan.side, plan.side)}',
        '_data = [',
    ]
    for source in sources:
        body += [
            f"    dict(type=SAMRSDataset, subset='sota', name={source.name!r},",
            f'         data_root={str(source.root)!r},',
            f'         classes={source.classes!r}{_labels(source)}),',
        ]
    missing = set(PRETRAINING_TASKS) - {task for source in sources for task in source.tasks}
    body[:0] = [f'del model.tasks[{task!r}]' for task in PRETRAINING_TASKS if task in missing]
    body += [
        ']',
        'train_dataloader.dataset.datasets = [',
        '    dict(each, pipeline=train_pipeline) for each in _data]',
        'val_dataloader.dataset.datasets = [',
        "    dict(each, split='valid', test_mode=True, pipeline=test_pipeline) for each in _data]",
        *_pretraining_scenes(sources),
        'test_dataloader, test_evaluator = val_dataloader, val_evaluator',
    ]
    return _Parts(
        ['from mtp.data import SAMRSDataset', 'from mtp.models import build_backbone'],
        [
            ('pretrain.datasets.samrs', '*'),
            (f'pretrain.models.multitask{"_small" if tiny else ""}', '*'),
            ('pretrain.runtime', '*'),
            ('pretrain.schedules.mtp_80k', '*'),
        ],
        [*body, *(['optim_wrapper.optimizer.lr = 1e-3'] if tiny else [])],
        _iterations(plan, warmup=False),
    )


def _pretraining_scenes(sources: Sequence[Source]) -> list[str]:
    """Return the lines that judge scenes beside their tiles."""
    scenes = [f"    {s.name}='{s.root / 'scenes' / 'val.json'}'," for s in sources if s.scenes]
    return ['val_evaluator.scenes = dict(', *scenes, ')'] if scenes else []


_TASKS = dict(
    classification=_classification,
    horizontal_detection=_horizontal,
    rotated_detection=_rotated,
    segmentation=_segmentation,
    change_detection=_change,
    pretraining=_pretraining,
)


def _data(reader: str, source: Source, **arguments: object) -> list[str]:
    given = dict(data_root=str(source.root)) | arguments
    if source.label_values:
        given['label_values'] = dict(source.label_values)
    return [
        '_data = dict(',
        f'    type={reader},',
        *(f'    {name}={value!r},' for name, value in given.items()),
        ')',
    ]


def _test(source: Source, split: str, loader: str = 'test_dataloader') -> list[str]:
    """Return the lines for a test split, without which validation's is tested on."""
    if not source.test:
        return ['test_dataloader, test_evaluator = val_dataloader, val_evaluator']
    return [
        f'test_dataloader = dict({loader}, dataset=dict({loader}.dataset, {split}))',
        'test_evaluator = val_evaluator',
    ]


def _labels(source: Source) -> str:
    """Return the arguments that say what a data set of a pretraining has no labels for."""
    tasks = '' if source.tasks == PRETRAINING_TASKS else f', tasks={source.tasks!r}'
    return tasks + ('' if source.masks else ', masks=False')


def _scene_import(source: Source, metric: str) -> list[str]:
    return [f'from mtp.evaluation import {metric}'] if source.scenes else []


def _scenes(source: Source, metric: str) -> list[str]:
    """Return the lines that judge scenes beside their tiles."""
    if not source.scenes:
        return []
    folder = source.root / 'scenes'
    test = f"dict(val_evaluator, scenes='{folder}/test.json')" if source.test else 'val_evaluator'
    return [
        f"val_evaluator = dict(type={metric}, metric=val_evaluator, scenes='{folder}/val.json')",
        f'test_evaluator = {test}',
    ]


def _two_thirds(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * 2 // 3, size[1] * 2 // 3
