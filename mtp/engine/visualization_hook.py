"""Pictures of what a model predicts, written while it is tested."""
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtp.inference.visualizer import draw_sample
from mtp.registry import HOOKS


@HOOKS.register_module()
class MultiTaskVisualizationHook(Hook):
    """Writes ``<out_dir>/<data set>_<image's stem>.png`` for tested images.

    Each shows the predictions of all tasks below the truth
    (:func:`mtp.inference.visualizer.draw_sample`). A file appears whole or not at all.

    Args:
        out_dir: folder, made when needed; None: no pictures.
        max_images: how many of each data set, on each process; None: all.
        score_thr: predicted objects of a lower score are not drawn.
    """

    def __init__(self, out_dir: str | None = None, max_images: int | None = None,
                 score_thr: float = 0.3) -> None:
        self.out_dir = out_dir and Path(out_dir)
        self.max_images = max_images
        self.score_thr = score_thr

    def before_test(self, runner: Runner) -> None:
        """Start counting."""
        self.drawn = Counter()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                        outputs: Sequence[DetDataSample] = ()) -> None:
        """Draw the images of the batch."""
        if self.out_dir is None:
            return
        datasets = runner.test_dataloader.dataset.metainfo['datasets']
        for sample in outputs:
            if self.drawn[sample.dataset] == self.max_images:
                continue
            self.drawn[sample.dataset] += 1
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            picture = draw_sample(image, sample, datasets[sample.dataset], self.score_thr)
            self._write(picture, f'{sample.dataset}_{Path(sample.img_path).stem}.png')

    def _write(self, picture, name: str) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        unfinished = self.out_dir / f'.{name}.{os.getpid()}'
        _, encoded = cv2.imencode('.png', picture[..., ::-1])
        unfinished.write_bytes(encoded)
        os.replace(unfinished, self.out_dir / name)
