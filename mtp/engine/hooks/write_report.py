"""A report of a test: one HTML page with figures, curves and the best and worst images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mtp.engine.hooks.draw_predictions import DrawPredictionsHook, read_shown
from mtp.evaluation.report import Extremes, figures_of, parts_of
from mtp.evaluation.report.kinds import Figures
from mtp.registry import HOOKS
from mtp.visualization.report_page import Section, Table, of_metrics, of_task, split_key, write_page
from mtp.visualization.report_pictures import draw_case

NAME = 'report.html'
IMAGES = 6  # best, and worst, images of each task of each data set


@HOOKS.register_module()
class ReportHook(Hook):
    """Hook that writes ``<out_dir>/report.html`` after a test of any task.

    Counts and curves are accumulated image by image; only the pictures of the best and worst
    images so far are kept.

    Args:
        out_dir: output folder, created if missing.

    Raises:
        ValueError: several processes test, or the images have no labels.
    """

    # after the hook that draws pictures, whose bands this one shows
    priority = 'LOW'

    def __init__(self, out_dir: str) -> None:
        self.path = Path(out_dir) / NAME

    def before_test(self, runner: Runner) -> None:
        """Begin with empty counts."""
        if get_world_size() > 1:
            raise ValueError('--report counts in one process: test without a launcher')
        self.figures: dict[tuple[str, str], Figures] = {}
        self.extremes: dict[tuple[str, str], Extremes] = {}
        self.left_out: set[str] = set()
        self.tested = 0
        self.bands = next(
            (hook.bands for hook in runner.hooks if isinstance(hook, DrawPredictionsHook)), None
        )

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] = (),
    ) -> None:
        """Count the images of the batch."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs:
            self.tested += 1
            for part in parts_of(sample, meta):
                if part.content is None:
                    self.left_out.add(part.task)
                    continue
                key = part.dataset, part.task
                if key not in self.figures:
                    self.figures[key] = figures_of(part.content, part.classes)
                    self.extremes[key] = Extremes(IMAGES)
                verdict = self.figures[key].add(part.content)
                of_part = meta['datasets'][part.dataset] if part.dataset else meta

                def make(sample: Any = sample, drawn: tuple = (part, verdict, of_part)) -> Any:
                    paths = [sample.get(name) for name in ('img_path', 'img_path2')]
                    images = [read_shown(path, self.bands) for path in paths if path]
                    return draw_case(Path(sample.img_path).name, images, *drawn)

                self.extremes[key].offer(verdict.quality, verdict.weight, make)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the page."""
        metrics = metrics or {}
        sections = [self._section(key, metrics) for key in self.figures]
        in_sections = {
            key
            for (dataset, task), figures in self.figures.items()
            for key in metrics
            if split_key(key, figures.classes, f'{dataset}/{task}' if dataset else '')
        }
        overall = [[key, value] for key, value in metrics.items() if key not in in_sections]
        notes = [
            f'The task {task} is of a kind without a report.' for task in sorted(self.left_out)
        ]
        tables = [Table('', ['figure', 'value'], overall)]
        about = [
            f'{self.tested} images tested with {runner.cfg.filename or "a config"}, weights: '
            f'{runner.cfg.get("load_from") or "untrained"}.',
            'Figures are those of metrics.json, in its units.',
        ]
        title = f'Test of {runner.experiment_name}'
        write_page(self.path, title, about, [Section('Metrics', tables, notes=notes), *sections])
        runner.logger.info(f'Report written to {self.path}')

    def _section(self, key: tuple[str, str], metrics: dict[str, float]) -> Section:
        (dataset, task), figures = key, self.figures[key]
        prefix = f'{dataset}/{task}' if dataset else ''
        tables = of_metrics(metrics, figures.classes, prefix)
        section = of_task(prefix or task.capitalize(), figures.result(), tables)
        section.cases = {
            'Worst images': self.extremes[key].worst,
            'Best images': self.extremes[key].best,
        }
        return section
