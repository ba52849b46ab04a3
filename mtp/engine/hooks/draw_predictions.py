"""Pictures of what a model predicts, written while it is tested."""

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
    """Writes ``<out_dir>/<image's stem>.png`` for tested images of any task.

    Each shows the predictions beside the truth, where the test split has it
    (:func:`mtp.visualization.samples.draw_result`). Stems of several data sets begin with the data
    set's name, those of scenes with the image's folder, often the class. A file appears whole or
    not at all. Unlike the hooks of the task's libraries this one draws on every process.

    Args:
        out_dir: folder, made when needed; None: no pictures.
        max_images: how many of each data set, on each process; None: all.
        score_thr: predicted objects of a lower score are not drawn.
    """

    def __init__(
        self, out_dir: str | None = None, max_images: int | None = None, score_thr: float = 0.3
    ) -> None:
        self.out_dir = out_dir and Path(out_dir)
        self.max_images = max_images
        self.score_thr = score_thr

    def before_test(self, runner: Runner) -> None:
        """Start counting."""
        self.drawn = Counter()

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
            self._write(picture, f'{prefix}_{path.stem}.png' if prefix else f'{path.stem}.png')

    def _write(self, picture: np.ndarray, name: str) -> None:
        _, encoded = cv2.imencode('.png', picture[..., ::-1])
        with whole(self.out_dir / name) as unfinished:
            unfinished.write_bytes(encoded)


def _read(path: str) -> np.ndarray:
    """uint8 RGB ``(H, W, 3)``, read as training reads it."""
    return np.ascontiguousarray(LoadImage().transform(dict(img_path=path))['img'][..., ::-1])
