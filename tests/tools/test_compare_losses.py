"""What the comparison of two commits calls equal, and how it names what is not."""

import json

import pytest

from tools.benchmark.commits.differences import Renamed, differences, flatten, read_figures

RENAMED = Renamed(
    {
        'mtp.inference': 'mtp.visualization',
        'mtp.inference.curves': 'mtp.plots',
        'mtp.models.multitask': 'mtp.models.multitask_model',
    },
    {'pretrain/vit-tiny.py': 'pretrain/vit_tiny.py', '_base_/work_dirs.py': '_base_/folder.py'},
)
OLD = {
    'model': {'type': 'mtp.models.multitask.MultiTaskModel', 'size': (2, 3), 'hooks': [{}]},
    'curves': 'mtp.inference.curves.plot',
    'start': 'work_dirs/vit-tiny/encoder.pth',
}
NEW = {
    'model': {'type': 'mtp.models.multitask_model.MultiTaskModel', 'size': (2, 3), 'hooks': [{}]},
    'curves': 'mtp.plots.plot',
    'start': 'work_dirs/vit_tiny/encoder.pth',
}


def found(old, new, renamed=None):
    return differences(flatten(old), flatten(new), renamed)


def test_old_names_are_equal_to_new_ones_and_to_themselves():
    assert found(OLD, NEW, RENAMED) == [] == found(OLD, OLD, RENAMED)
    assert RENAMED.config('pretrain/vit-tiny.py') == 'pretrain/vit_tiny.py'
    assert [line.partition(':')[0] for line in found(OLD, NEW)] == ['model.type', 'curves', 'start']
    # no way back, and no part of a name
    assert len(found(NEW, OLD, RENAMED)) == 3
    assert found({'a': 'mtp.inferences.X'}, {'a': 'mtp.visualizations.X'}, RENAMED)


@pytest.mark.parametrize(
    ('new', 'lines'),
    [
        ({**OLD, 'curves': None}, ["curves: 'mtp.inference.curves.plot' -> None"]),
        ({**OLD, 'lr': 1e-4}, ['lr: 0.0001 in NEW only']),
        (
            {**OLD, 'model': {**OLD['model'], 'size': [2, 3]}},
            ['model.size: tuple of 2 -> list of 2'],
        ),
        (
            {**OLD, 'model': {**OLD['model'], 'hooks': []}},
            ['model.hooks: list of 1 -> list of 0', 'model.hooks.0: {} in OLD only'],
        ),
        ({**OLD, 'model': {**OLD['model'], 'size': (2, 3.0)}}, ['model.size.1: 3 -> 3.0']),
    ],
)
def test_what_differs_is_named_with_both_values(new, lines):
    assert found(OLD, new, RENAMED) == lines


def write_run(work_dir, losses, metric):
    log = work_dir / '20250101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    records = [
        {'loss': loss, 'time': id(work_dir), 'step': step} for step, loss in enumerate(losses, 1)
    ]
    log.write_text('\n'.join(map(json.dumps, [*records, {'mIoU': metric, 'step': len(losses)}])))
    (work_dir / 'test').mkdir()
    (work_dir / 'test' / 'metrics.json').write_text(json.dumps({'mIoU': metric}))
    return read_figures(work_dir, steps=2)


def test_figures_of_runs_are_compared_to_the_last_digit(tmp_path):
    old = write_run(tmp_path / 'old', [0.1, float('nan')], 0.3)
    assert list(old) == ['step 1.loss', 'step 2.loss', 'step 2.mIoU', 'test.mIoU']
    assert differences(old, write_run(tmp_path / 'same', [0.1, float('nan')], 0.3)) == []
    new = write_run(tmp_path / 'new', [0.1, float('nan')], 0.1 + 0.2)
    assert differences(old, new) == [
        'step 2.mIoU: 0.3 -> 0.30000000000000004',
        'test.mIoU: 0.3 -> 0.30000000000000004',
    ]


def test_run_without_all_losses_is_refused(tmp_path):
    with pytest.raises(ValueError, match='does not hold the losses of 2 steps'):
        write_run(tmp_path / 'short', [0.1], 0.3)
