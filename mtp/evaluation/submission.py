"""Predictions as the benchmarks' servers take them, for test splits whose labels they keep."""

import zipfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mtp.files import whole
from mtp.registry import METRICS


class Submission(BaseMetric):
    """Writes what a server takes, ``<out_dir>/<name>.zip``, instead of computing a figure.

    A subclass collects ``(img_path, prediction)`` in ``process`` and makes the files in ``files``,
    which runs on the main process with the predictions of all, each image once.

    Args:
        out_dir: folder to write into, made when needed; ``tools/test.py --submission`` sets it.
        collect_device, collect_dir: as in :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix = ''
    name: str
    compression = zipfile.ZIP_DEFLATED

    def __init__(
        self, out_dir: str, collect_device: str = 'cpu', collect_dir: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        self.out_dir = Path(out_dir)
        self.out_dir.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def files(self, predictions: dict[str, Any]) -> dict[str, str | bytes]:
        """Predictions by ``img_path`` -> name in the zip -> content."""

    def write(self, predictions: dict[str, Any]) -> Path:
        """The zip, which appears whole or not at all."""
        path = self.out_dir / f'{self.name}.zip'
        with (
            whole(path) as unfinished,
            zipfile.ZipFile(unfinished, 'w', self.compression) as archive,
        ):
            for name, content in self.files(predictions).items():
                archive.writestr(name, content)
        return path

    def compute_metrics(self, results: list[tuple[str, Any]]) -> dict[str, float]:
        """Write, and tell how many images there are."""
        predictions = dict(results)
        path = self.write(predictions)
        print_log(f'Predictions of {len(predictions)} images written: send in {path}', 'current')
        return {'images': len(predictions)}


@METRICS.register_module()
class LoveDASubmission(Submission):
    """LoveDA: a zip of one grey png per image, named like it; values 0 to 6, background first."""

    name = 'loveda'
    compression = zipfile.ZIP_STORED  # png does not shrink any further

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Encode the class maps of mmseg's samples."""
        for sample in data_samples:
            labels = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy().astype(np.uint8)
            self.results.append((sample['img_path'], cv2.imencode('.png', labels)[1].tobytes()))

    def files(self, predictions: dict[str, bytes]) -> dict[str, bytes]:
        """One file an image."""
        return {f'{Path(name).stem}.png': content for name, content in sorted(predictions.items())}
