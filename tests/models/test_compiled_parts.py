"""Methods that are compiled serve every number of objects and classes with the code of step 1."""

from unittest.mock import patch

import torch
from torch._dynamo.utils import counters

from mtp.engine.hooks import compilation
from mtp.models.tasks.base import is_highest
from tests.models.small import build_model, losses_of, make_sample

CLASSES = (3, 1, 15, 16, 17, 2, 31, 32, 33, 38)


def test_highest_is_argmax():
    logits = torch.randint(4, (500, 5)).float()  # equal ones occur
    index = torch.randint(5, (500,))
    assert torch.equal(is_highest(logits, index), logits.argmax(1) == index)


def test_ten_class_counts_and_all_object_counts_stay_compiled():
    datasets = {f'set{i}': dict(num_classes=classes) for i, classes in enumerate(CLASSES)}
    tasks = ('semantic', 'instance', 'rotated')
    model = build_model(datasets, tasks).train()
    parts = [
        (module, method)
        for module in model.modules()
        for method in getattr(module, 'compiled_methods', ())
    ]
    with patch.object(model.backbone, 'compiled_parts', list):  # of fixed shapes
        compilation.compile_parts(model, 'eager')

    def step(objects):
        boxes = [(0, (i % 7, i % 5, 30 + i % 11, 40 + i % 9)) for i in range(objects)]
        losses = losses_of(model, [make_sample(name, tasks, boxes) for name in [*datasets] * 2])
        model.parse_losses(losses)[0].backward()

    torch._dynamo.reset()
    counters.clear()
    step(3)
    # the extractors of boxes and of masks share theirs, as do both necks
    assert counters['stats']['unique_graphs'] == len(parts) - 2
    with torch.compiler.set_stance('fail_on_recompile'):
        for objects in (9, 40, 0):
            step(objects)
