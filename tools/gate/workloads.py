"""The steps of training whose parts the gate compiles; imports no torch."""

from dataclasses import dataclass

HEAVIEST = 10  # kernels of a part that are compiled for the other capabilities
# What depends on the number of classes, and the numbers to try, background included: around the
# powers of two to which Triton rounds, and the largest of SAMRS. Background alone is no data set.
BY_CLASSES = ('SemanticTask.terms', 'SharedRoIHead.targets', 'SharedRoIHead.box_terms')
CLASSES = (2, 15, 16, 17, 31, 32, 33, 38)
QUICK = ('SemanticTask.terms', 'MultiDatasetRPNHead.targets')  # for the test suite
FINETUNING = {  # a recipe of each kind
    'classification': 'classification/eurosat/vit_b_rvsa',
    'retinanet': 'horizontal_detection/xview/vit_b_rvsa',
    'faster_rcnn': 'horizontal_detection/dior/vit_b_rvsa',
    'oriented_rcnn': 'rotated_detection/dior_r/vit_b_rvsa',
    'upernet': 'segmentation/loveda/vit_b_rvsa',
    'change_detection': 'change_detection/levir/vit_b_rvsa',
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A training step.

    Attributes:
        processes: ``'one'``; ``'DDP'`` or ``'FSDP2'``: the first of two.
        only: titles of the parts to compile; all if empty.
    """

    processes: str = 'one'
    only: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pretraining(Workload):
    """A step of pretraining.

    Attributes:
        model: a key of ``RECIPES`` in ``tools/benchmark/training/recipes.py``.
        classes: of the data sets, background included, instead of the recipe's.
        tasks: of the model, where ``classes`` are given.
    """

    model: str
    classes: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ('semantic', 'instance', 'rotated')


@dataclass(frozen=True, kw_only=True)
class Finetuning(Workload):
    """Two steps of finetuning.

    Attributes:
        config: below ``configs/finetune``, without ``.py``.
    """

    config: str


WORKLOADS = {
    **{
        f'{model} {processes}': Pretraining(model=model, processes=processes)
        # in this order, so that two at a time have little in common, which one finds done later
        for processes in ('one', 'DDP', 'FSDP2')
        for model in ('vit_b_rvsa', 'internimage_xl', 'vit_l_rvsa')
    },
    **{f'{kind} one': Finetuning(config=config) for kind, config in FINETUNING.items()},
    **{
        f'{kind} DDP': Finetuning(config=FINETUNING[kind], processes='DDP')
        for kind in ('upernet', 'change_detection')
    },
    'classes': Pretraining(model='vit_tiny_rvsa', classes=CLASSES, only=BY_CLASSES),
    'quick': Pretraining(
        model='vit_tiny_rvsa', classes=(19,), tasks=('semantic', 'instance'), only=QUICK
    ),
}
