"""Files of predictions for benchmark servers, which keep the labels of test splits."""

import zipfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mtp.files import whole
from mtp.registry import METRICS


class Submission(BaseMetric):
    """Writes a server's input, ``<out_dir>/<name>.zip``, instead of computing a figure.

    A subclass collects ``(img_path, prediction)`` in ``process`` and makes the files in ``files``.
    The latter runs on the main process with the predictions of all processes, each image once.

    Args:
        out_dir: output folder, created if needed; ``tools/test.py --submission`` sets it.
        collect_device, collect_dir: arguments of :class:`mmengine.evaluator.BaseMetric`.
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
    def files(self, predictions: dict[str, Any]) -> Mapping[str, str | bytes]:
        """Return the content of each file by its name in the zip, given predictions by path."""

    def write(self, predictions: dict[str, Any]) -> Path:
        """Write the zip atomically and return its path."""
        path = self.out_dir / f'{self.name}.zip'
        with (
            whole(path) as unfinished,
            zipfile.ZipFile(unfinished, 'w', self.compression) as archive,
        ):
            for name, content in self.files(predictions).items():
                archive.writestr(name, content)
        return path

    def compute_metrics(self, results: list[tuple[str, Any]]) -> dict[str, float]:
        """Write the zip and return the number of images."""
        predictions = dict(results)
        path = self.write(predictions)
        print_log(f'Predictions of {len(predictions)} images written: send in {path}', 'current')
        return {'images': len(predictions)}


@METRICS.register_module()
class LoveDASubmission(Submission):
    """LoveDA: a zip of one grey png per image, named like it; values 0 to 6, background is 0."""

    name = 'loveda'
    compression = zipfile.ZIP_STORED  # png is compressed already

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Encode the class maps of mmseg's samples."""
        for sample in data_samples:
            labels = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy().astype(np.uint8)
            self.results.append((sample['img_path'], cv2.imencode('.png', labels)[1].tobytes()))

    def files(self, predictions: dict[str, bytes]) -> dict[str, bytes]:
        """Return one png per image."""
        return {f'{Path(name).stem}.png': content for name, content in sorted(predictions.items())}
