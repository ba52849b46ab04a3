"""A page for every task: its figures are those of the metric, and everything is in it."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from sklearn.metrics import confusion_matrix

from mtp.evaluation.report import parts_of
from tests.engine.hooks.reported import KINDS, OF_DATASETS, report, samples_of


class Page(HTMLParser):
    """Texts of the cells of each table, the tags, and what the attributes refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for key, value in attrs if key in ('src', 'href', 'xlink:href')]
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        self._in_cell = tag in ('td', 'th')
        if self._in_cell:
            self.tables[-1][-1].append('')

    def handle_endtag(self, tag):
        self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    text, metrics, hook = report(request.param, tmp_path)
    return request.param, Page(text), text, metrics, hook


def test_page_holds_every_figure_and_needs_nothing_else(made):
    kind, page, text, metrics, hook = made
    overall = dict(page.tables[0][1:])
    shown = {(key,): value for key, value in overall.items()}
    for table in page.tables[1:]:
        heads = table[0]
        if heads[0] == 'class' and 'right' not in heads:
            shown |= {
                (len(shown), name, head): value
                for name, *cells in table[1:]
                for head, value in zip(heads[1:], cells)
            }
    assert len(shown) >= len(metrics), 'each figure once; cells of classes without one are dashes'
    numbers = sorted(float(value) for value in shown.values() if value != '–')
    expected = sorted(round(value, 4) for value in metrics.values() if value is not None)
    assert numbers == pytest.approx(expected, abs=1e-9)
    for key, value in overall.items():
        assert value == '–' if metrics[key] is None else float(value) == round(metrics[key], 4)

    assert 'script' not in page.tags, 'the class of that name is text'
    assert page.addresses and all(address.startswith('data:') for address in page.addresses)
    assert 'url(' not in text and '@import' not in text
    drawn = [extremes.worst + extremes.best for extremes in hook.extremes.values()]
    assert all(drawn) and text.count('<img ') == sum(
        len(case.pictures) for cases in drawn for case in cases
    )
    assert text.count('<svg ') == (2 if kind != 'multi-task' else 4)


def test_confusion_is_that_of_scikit_learn(tmp_path):
    for kind in ('classification', 'segmentation', 'change detection'):
        samples, meta = samples_of(kind, tmp_path), KINDS[kind][2]
        if kind == 'classification':
            true = [int(sample.gt_label) for sample in samples]
            found = [int(sample.pred_label) for sample in samples]
        else:
            true = np.concatenate([s.gt_sem_seg.data.numpy().ravel() for s in samples])
            found = np.concatenate([s.pred_sem_seg.data.numpy().ravel() for s in samples])
            true, found = true[true != 255], found[true != 255]
        expected = confusion_matrix(true, found, labels=range(len(meta['classes'])))
        text, metrics, _ = report(kind, tmp_path)
        matrices = [table for table in Page(text).tables if table[0][0] == 'truth']
        assert [[int(cell) for cell in row[1:]] for row in matrices[0][1:]] == expected.tolist()
        if kind == 'segmentation':
            ious = expected.diagonal() / (expected.sum(0) + expected.sum(1) - expected.diagonal())
            assert 100 * ious[1] == pytest.approx(metrics['<script>/IoU'])


def test_unknown_kinds_are_named_and_missing_truth_is_an_error():
    meta = {'datasets': {'sota': dict(OF_DATASETS['datasets']['sota'], tasks=('rotated',))}}
    sample = DetDataSample(metainfo=dict(dataset='sota', img_path='a.png'))
    assert next(parts_of(sample, meta)).content is None
    sample = DetDataSample(metainfo=dict(img_path='a.png'), pred_instances=InstanceData())
    with pytest.raises(ValueError, match='a.png: a report compares .* with labels'):
        list(parts_of(sample, dict(classes='ab')))


WRAPPER = """<body><script>
for (const width of [1280, 390]) {{
  const frame = document.createElement('iframe');
  frame.style = `width:${{width}}px;height:900px;border:0`;
  frame.onload = () => {{
    const page = frame.contentWindow, root = page.document.documentElement;
    const found = [page.innerWidth, root.scrollWidth,
      page.performance.getEntriesByType('resource').length, page.document.images.length,
      [...page.document.images].filter(image => image.naturalWidth > 0).length];
    document.body.append(`[${{found}}]`);
  }};
  frame.srcdoc = "{page}";
  document.body.append(frame);
}}
</script></body>"""


@pytest.mark.skipif(not shutil.which('chromium'), reason='needs chromium on the PATH')
@pytest.mark.parametrize('kind', ['rotated detection', 'multi-task'])
def test_chromium_shows_it_at_both_widths(kind, tmp_path):
    text, *_ = report(kind, tmp_path)
    quoted = text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')
    wrapper = tmp_path / 'wrapper.html'
    wrapper.write_text(WRAPPER.format(page=quoted))
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage']
    done = subprocess.run(
        ['chromium', *options, f'--user-data-dir={tmp_path}/profile', '--dump-dom', str(wrapper)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert 'CONSOLE' not in done.stderr, 'no error of a script, nothing blocked'
    found = re.findall(r'\[(\d+),(\d+),(\d+),(\d+),(\d+)\]', done.stdout)
    assert sorted(int(one[0]) for one in found) == [390, 1280]
    for window, width, requests, images, shown in (map(int, one) for one in found):
        assert width <= window and requests == 0 and 0 < images == shown
