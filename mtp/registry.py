"""Registries of scope ``mtp``: children of mmengine's root registries.

Pure-Python configs refer to the class itself; text configs and configs of other libraries use the
name ``'mtp.<ClassName>'``.
"""

from mmengine import registry as root

MODELS = root.Registry('model', scope='mtp', parent=root.MODELS, locations=['mtp.models'])
DATASETS = root.Registry(
    'dataset',
    scope='mtp',
    parent=root.DATASETS,
    locations=[
        f'mtp.data.{name}'
        for name in (
            'multitask_dataset',
            'packed',
            'readers.box_files',
            'readers.boxes',
            'readers.labelled',
            'readers.maps',
            'readers.pairs',
            'samrs.records',
        )
    ],
)
LABELS = root.Registry('label', scope='mtp', locations=['mtp.data.labels'])
TRANSFORMS = root.Registry(
    'transform',
    scope='mtp',
    parent=root.TRANSFORMS,
    locations=[
        f'mtp.data.{name}'
        for name in (
            'band_transforms',
            'crops',
            'load_bands',
            'readers.labelled',
            'readers.pairs',
            'transforms',
        )
    ],
)
DATA_SAMPLERS = root.Registry(
    'data sampler', scope='mtp', parent=root.DATA_SAMPLERS, locations=['mtp.data.samplers']
)
TASK_UTILS = root.Registry(
    'task util', scope='mtp', parent=root.TASK_UTILS, locations=['mtp.models']
)
METRICS = root.Registry('metric', scope='mtp', parent=root.METRICS, locations=['mtp.evaluation'])
HOOKS = root.Registry('hook', scope='mtp', parent=root.HOOKS, locations=['mtp.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = root.Registry(
    'optimizer wrapper constructor',
    scope='mtp',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    locations=['mtp.engine'],
)
MODEL_WRAPPERS = root.Registry(
    'model_wrapper', scope='mtp', parent=root.MODEL_WRAPPERS, locations=['mtp.engine']
)
LOG_PROCESSORS = root.Registry(
    'log_processor', scope='mtp', parent=root.LOG_PROCESSORS, locations=['mtp.engine']
)
OPTIM_WRAPPERS = root.Registry(
    'optim_wrapper', scope='mtp', parent=root.OPTIM_WRAPPERS, locations=['mtp.engine']
)
LOOPS = root.Registry('loop', scope='mtp', parent=root.LOOPS, locations=['mtp.engine'])
OPTIMIZERS = root.Registry(
    'optimizer', scope='mtp', parent=root.OPTIMIZERS, locations=['mtp.engine']
)

# mtp registers nothing here, but mmengine warns on each use of a scope without a child registry.
for _registry in (
    root.PARAM_SCHEDULERS,
    root.VISBACKENDS,
    root.VISUALIZERS,
    root.EVALUATOR,
    root.WEIGHT_INITIALIZERS,
):
    root.Registry(_registry.name, scope='mtp', parent=_registry)


def short_name(type_: type | str) -> str:
    """Return the name of a config's type without its modules or scope: a class or its name."""
    return type_.rpartition('.')[2] if isinstance(type_, str) else type_.__name__
