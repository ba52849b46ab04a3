"""The training steps whose parts the gate compiles; imports no torch."""

from dataclasses import dataclass

HEAVIEST = 10  # number of kernels of a part to compile for the other capabilities
# Parts that depend on the number of classes, and the numbers to try, background included: around
# the powers of two to which Triton rounds, and the largest of SAMRS. The box terms depend on the
# sum of all data sets, of which only one is tried.
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
        processes: ``'one'`` for one process, ``'DDP'`` or ``'FSDP2'`` for the first of two.
        only: titles of the parts to compile; empty for all.
    """

    processes: str = 'one'
    only: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pretraining(Workload):
    """A step of pretraining.

    Attributes:
        model: key of ``RECIPES`` in ``tools/benchmark/training/recipes.py``.
        classes: numbers of classes of the data sets, background included; empty for the recipe's.
        tasks: tasks of the model where ``classes`` are given.
    """

    model: str
    classes: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ('semantic', 'instance', 'rotated')


@dataclass(frozen=True, kw_only=True)
class Finetuning(Workload):
    """Two steps of finetuning.

    Attributes:
        config: path of the config below ``configs/finetune``, without ``.py``.
    """

    config: str


WORKLOADS = {
    **{
        f'{model} {processes}': Pretraining(model=model, processes=processes)
        # in this order neighbours share little: two at a time, one does not repeat the other's work
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
