"""Before the first step, data and heads are compared, and what the readers took is said."""

from types import SimpleNamespace

import pytest
from torch import nn
from torch.utils.data import ConcatDataset, Dataset

from mtp.data.tally import Tally
from mtp.engine.hooks.check_data import LEFT_OUT, CheckDataHook


class Data(Dataset):
    def __init__(self, classes):
        self.metainfo, self.tally = dict(classes=classes), Tally(images=3, objects=7)

    def __len__(self):
        return 3


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def runner(dataset, num_classes, work_dir='.'):
    said = []
    model = nn.ModuleDict(dict(rpn_head=Head(1), bbox_head=Head(num_classes)))
    loader = SimpleNamespace(dataset=dataset, batch_size=4)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        val_dataloader=loader,
        val_loop=object(),
        max_iters=1000,
        work_dir=str(work_dir),
        said=said,
        logger=SimpleNamespace(info=lambda text, **_: said.append(text), warning=said.append),
    )


@pytest.mark.parametrize('num_classes', [2, 4])
def test_a_head_with_another_number_of_classes_is_refused(num_classes):
    data = Data(('plane', 'car', 'ship'))
    with pytest.raises(ValueError, match=r'3 classes .*bbox_head.num_classes to 3'):
        CheckDataHook().before_train(runner(data, num_classes))


def test_a_name_without_a_comma_is_refused():
    with pytest.raises(ValueError, match="'plane',"):
        CheckDataHook().before_train(runner(Data('plane'), 5))


def test_what_was_left_out_is_listed_once(tmp_path):
    data = ConcatDataset([Data(('plane',)), Data(('plane',))])
    data.metainfo = data.datasets[0].metainfo
    data.datasets[1].tally.leave_out('objects without area', 'a.txt, line 4')
    hook, run = CheckDataHook(), runner(data, 1, tmp_path)
    hook.before_train(run)
    hook.before_val(run)
    assert sum(LEFT_OUT in line for line in run.said) == 1
    assert (tmp_path / LEFT_OUT).read_text().splitlines() == [
        f'{mode}: a.txt, line 4: left out, as all objects without area' for mode in ('train', 'val')
    ]


@pytest.mark.parametrize(
    'steps, said', [(36, '36 steps in all are too few'), (1000, 'a batch of 4')]
)
def test_what_cannot_learn_anything_is_said(steps, said):
    run = runner(Data(('plane',)), 1)
    run.max_iters = steps
    CheckDataHook().before_train(run)
    assert any(line.startswith(said) for line in run.said)
