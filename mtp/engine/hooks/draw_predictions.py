"""Pictures of a model's predictions, written during a test."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample

from mtp.data import LoadImage
from mtp.files import whole
from mtp.registry import HOOKS
from mtp.visualization.samples import draw_result


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Hook that writes ``<out_dir>/<image's stem>.png`` for tested images of any task.

    Each picture shows the predictions beside the ground truth, if the test split has one
    (:func:`mtp.visualization.samples.draw_result`). With several data sets, the file name begins
    with the data set's name; for scenes, with the image's folder, often the class. Files are
    written atomically. Unlike the hooks of the task's libraries, this one draws on every process.

    Args:
        out_dir: output folder, created if missing; None: no pictures.
        max_images: maximum number of images per data set and process; None: all.
        score_thr: minimum score of a drawn object, 0 to 1.
    """

    def __init__(
        self, out_dir: str | None = None, max_images: int | None = None, score_thr: float = 0.3
    ) -> None:
        self.out_dir = Path(out_dir) if out_dir else None
        self.max_images = max_images
        self.score_thr = score_thr

    def before_test(self, runner: Runner) -> None:
        """Reset the number of drawn images."""
        self.drawn: Counter[str] = Counter()

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] = (),
    ) -> None:
        """Draw the images of the batch."""
        if self.out_dir is None:
            return
        for sample in outputs:
            dataset = sample.get('dataset', '')
            if self.drawn[dataset] == self.max_images:
                continue
            self.drawn[dataset] += 1
            path = Path(sample.img_path)
            prefix = path.parent.name if isinstance(sample, DataSample) else dataset
            images = [_read(sample.get(key)) for key in ('img_path', 'img_path2') if key in sample]
            picture = draw_result(
                images, sample.cpu(), runner.test_dataloader.dataset.metainfo, self.score_thr
            )
            name = f'{prefix}_{path.stem}.png' if prefix else f'{path.stem}.png'
            _write(self.out_dir / name, picture)


def _write(path: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode('.png', picture[..., ::-1])
    with whole(path) as unfinished:
        unfinished.write_bytes(encoded.data)


def _read(path: str) -> np.ndarray:
    """Return an image as uint8 RGB ``(H, W, 3)``, read as in training."""
    return np.ascontiguousarray(LoadImage().transform(dict(img_path=path))['img'][..., ::-1])
