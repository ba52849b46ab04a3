"""The model and the data must speak of the same data sets."""

from types import SimpleNamespace

import pytest

from mtp.data.tally import Tally
from mtp.engine.hooks.check_datasets import CheckDatasetsHook

MODEL = dict(a=dict(num_classes=2, tasks=('semantic', 'rotated')))


class DataSet:
    def __init__(self, metainfo):
        self.metainfo, self.tally = metainfo, Tally()

    def __len__(self):
        return 8


def runner(name='a', classes=('x', 'y'), tasks=('semantic', 'rotated'), per_batch=4):
    meta = dict(datasets={name: dict(classes=classes, tasks=tasks)})
    loader = SimpleNamespace(
        dataset=DataSet(meta),
        batch_sampler=SimpleNamespace(batch_size=4),
        sampler=SimpleNamespace(images_per_batch=per_batch),
    )
    return SimpleNamespace(
        model=SimpleNamespace(datasets=MODEL),
        train_dataloader=loader,
        val_loop=None,
        max_iters=1000,
        logger=SimpleNamespace(info=str, warning=str),
    )


def test_agreement_passes():
    CheckDatasetsHook().before_train(runner(tasks=('semantic', 'instance', 'rotated')))


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(name='b'), 'not among'),
        (dict(classes=('x', 'y', 'z')), 'num_classes'),
        (dict(tasks=('semantic',)), r"no labels for \['rotated'\]"),
        (dict(per_batch=6), 'batch_size to 6'),
    ],
)
def test_disagreement_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CheckDatasetsHook().before_train(runner(**change))
