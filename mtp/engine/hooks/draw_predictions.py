"""Pictures of a model's predictions, written during a test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import BaseVisBackend, LocalVisBackend
from mmpretrain.structures import DataSample

from mtp.data import LoadImage
from mtp.data.bands import read_picture
from mtp.evaluation.tables import SHOWN_SCORE
from mtp.fallback import fall_back
from mtp.registry import HOOKS
from mtp.visualization.choice import choose_images
from mtp.visualization.samples import draw_result
from mtp.visualization.visualizer import write_picture

VALIDATED = 4  # images of each data set that are shown of a validation


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Hook that writes ``<out_dir>/<image's stem>.png`` for tested images of any task.

    Of a validation, pictures of a few images, always the same, go to TensorBoard and to trackers.

    Each picture shows the predictions beside the ground truth, if the test split has one
    (:func:`mtp.visualization.samples.draw_result`). With several data sets, the file name begins
    with the data set's name; for scenes, with the image's folder, often the class. Files are
    written atomically. Unlike the hooks of the task's libraries, this one draws on every process.

    Args:
        out_dir: output folder, created if missing; None: no pictures.
        max_images: maximum number of images per data set, spread over its classes; None: all.
        score_thr: minimum score of a drawn object, 0 to 1; the picture says how many are hidden.
        bands: indices of the bands, from 1 on, that are shown as red, green and blue, for a model
            of other than 8-bit RGB (by default the first three that it sees); None for images that
            are read as RGB.
    """

    def __init__(
        self,
        out_dir: str | None = None,
        max_images: int | None = None,
        score_thr: float = SHOWN_SCORE,
        bands: Sequence[int] | None = None,
    ) -> None:
        self.out_dir = Path(out_dir) if out_dir else None
        self.max_images = max_images
        self.score_thr = score_thr
        self.bands = bands
        self._validated: set[str] | None = None

    def before_test(self, runner: Runner) -> None:
        """Choose the images to draw."""
        self.chosen: set[str] | None = None
        if self.out_dir is not None and self.max_images is not None:
            self.chosen = choose_images(runner.test_dataloader.dataset, self.max_images)

    def before_val(self, runner: Runner) -> None:
        """Choose the images whose pictures are shown, once."""
        if self._validated is not None:
            return
        dataset = runner.val_dataloader.dataset
        parts = getattr(dataset, 'datasets', None) or [dataset]
        tells_paths = all(hasattr(part, 'get_data_info') for part in parts)
        shown = is_main_process() and tells_paths and bool(_picture_backends(runner))
        self._validated = choose_images(dataset, VALIDATED) if shown else set()

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] = (),
    ) -> None:
        """Show the chosen images of the batch."""
        chosen = self._validated or set()
        for sample in outputs if chosen else ():
            if sample.get('img_path') in chosen:
                try:
                    name, picture = self._draw(sample, runner.val_dataloader.dataset.metainfo)
                    for backend in _picture_backends(runner):
                        backend.add_image(f'validation/{name}', picture, runner.iter)
                except Exception as error:  # a picture must not end a training
                    fall_back('pictures of a validation', 'they are left out', error)

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
            if self.chosen is not None and sample.img_path not in self.chosen:
                continue
            name, picture = self._draw(sample, runner.test_dataloader.dataset.metainfo)
            write_picture(self.out_dir / name, picture)

    def _draw(self, sample: BaseDataElement, meta: dict) -> tuple[str, np.ndarray]:
        """Return the name of a sample's picture, and the picture, uint8 RGB."""
        path = Path(sample.img_path)
        is_scene = isinstance(sample, DataSample)
        prefix = path.parent.name if is_scene else sample.get('dataset', '')
        paths = [sample.get(key) for key in ('img_path', 'img_path2') if key in sample]
        images = [read_shown(image, self.bands) for image in paths]
        picture = draw_result(images, sample.cpu(), meta, self.score_thr)
        return f'{prefix}_{path.stem}.png' if prefix else f'{path.stem}.png', picture


def _picture_backends(runner: Runner) -> list[BaseVisBackend]:
    """Return the backends that show pictures; that of files would keep every one on the disk."""
    backends = runner.visualizer._vis_backends.values()
    return [backend for backend in backends if not isinstance(backend, LocalVisBackend)]


def read_shown(path: str, bands: Sequence[int] | None) -> np.ndarray:
    """Return an image as it is shown, uint8 RGB ``(H, W, 3)``, read as in training.

    Args:
        path: path of the image.
        bands: argument of :class:`DrawPredictionsHook`.
    """
    if bands is not None:
        return read_picture(path, bands)
    return np.ascontiguousarray(LoadImage().transform(dict(img_path=path))['img'][..., ::-1])
