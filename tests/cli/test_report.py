"""``mtp report``: the page of a training run is that of its log."""

import json

import pytest

from mtp.cli.report import main
from tests.engine.hooks.test_report import Page


def log(work_dir, time, steps):
    """Write the log of a start, with a validation of an epoch whose number is that of a step."""
    path = work_dir / time / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    lines = [
        dict(loss=8 / step, loss_cls=6 / step, lr=0.1, time=2.0, images_per_s=4.0, memory=step)
        | dict(epoch=step // 4, iter=step, step=step)
        for step in steps
    ]
    lines.append({'coco/bbox_mAP': 0.5, 'coco/<b>/AP': None, 'time': 99.0, 'step': steps[0]})
    lines.append({'coco/bbox_mAP': 0.25, 'coco/<b>/AP': 0.75, 'time': 99.0, 'step': steps[1]})
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


@pytest.fixture
def work_dir(tmp_path):
    log(tmp_path, '20260101_000000', [4, 8, 12])
    start = dict(
        time='2026-01-01',
        processes=2,
        iteration=0,
        commit='abc',
        classes={'': ['<b>']},
        data=[dict(name='', images=21, bytes=1234)],
        hardware=dict(gpus=['A GPU']),
    )
    (tmp_path / 'provenance.json').write_text(json.dumps([start]))
    (tmp_path / 'tiny.py').write_text("name = '<i>'\n")
    (tmp_path / 'metrics.json').write_text('{"coco/bbox_mAP": 0.125}')
    return tmp_path


def test_page_tells_what_the_log_says(work_dir, capsys):
    main([str(work_dir)])
    path = work_dir / 'report.html'
    assert str(path) in capsys.readouterr().out
    text = path.read_text()
    page = Page(text)
    summary, validation, tested, data, starts = page.tables
    assert dict(summary[1:])['iterations'] == '12'
    assert dict(summary[1:])['hours of training steps'] == f'{24 / 3600:.4f}', 'no validation'
    assert dict(summary[1:])['memory of the GPU, MB, highest'] == '12'
    assert validation[1:] == [
        ['coco/bbox_mAP', '0.2500', '8', '0.5000', '4'],
        ['coco/<b>/AP', '0.7500', '8', '0.7500', '8'],
    ]
    assert tested[1] == ['coco/bbox_mAP', '0.1250']
    assert data[1] == ['data set', '21', '1234']
    assert starts[1] == ['2026-01-01', '0', '–', '2', 'abc', 'A GPU']
    for title in ('total loss', 'coco/bbox_mAP', 'images per second', 'learning rate'):
        assert f'<h3>{title}</h3>' in text
    assert 'name = &#39;&lt;i&gt;&#39;' in text and 'b' not in page.tags
    assert all(address.startswith('data:') for address in page.addresses)


def test_a_log_alone_suffices_and_no_log_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match='error: no <time>/vis_data/scalars.json'):
        main([str(tmp_path)])
    log(tmp_path, '20260101_000000', [4, 8])
    main([str(tmp_path), '--out', str(tmp_path / 'new' / 'page.html')])
    text = (tmp_path / 'new' / 'page.html').read_text()
    assert 'There is no provenance.json' in text and 'Test (metrics.json)' not in text
