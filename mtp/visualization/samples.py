"""Pictures of a sample of any task: image or image pair, ground truth, and any predictions."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mtp.painting import colour_of, shade
from mtp.sample_fields import label_table
from mtp.visualization.visualizer import MAX_TILE, MIN_TILE, captioned, draw_sample, frame, legend

Picture = tuple[np.ndarray, str, set[int]]
ROWS = {'gt': 'truth', 'pred': 'prediction'}


def draw_result(
    images: Sequence[np.ndarray], sample: BaseDataElement, meta: dict, score_thr: float = 0.3
) -> np.ndarray:
    """Draw one picture of a tested sample, predictions beside the ground truth, uint8 RGB.

    Arguments and errors are those of :func:`draw`. Predicted objects with a score below
    ``score_thr`` are not drawn.
    """
    if isinstance(sample, DetDataSample):
        return _objects(images[0], sample, meta, score_thr)
    height, width = images[0].shape[:2]
    longer = max(height, width)
    side = round(height * min(max(longer, MIN_TILE), MAX_TILE) / longer)
    return frame(
        [
            with_legend(captioned(picture, text), labels, meta)
            for picture, text, labels in draw(images, sample, meta, side)
        ]
    )


def with_legend(tile: np.ndarray, labels: set[int], meta: dict) -> np.ndarray:
    """Add the legend of its classes below a tile, uint8 RGB."""
    return np.concatenate([tile, legend(labels, meta, tile.shape[1])]) if labels else tile


def draw(
    images: Sequence[np.ndarray], sample: BaseDataElement, meta: dict, side: int
) -> Iterator[Picture]:
    """Yield pictures of a sample, uint8 RGB, their captions, and the labels that need a legend.

    Args:
        images: image, or the two images of a pair, ``(H, W, 3)`` uint8 RGB.
        sample: sample of mtp, mmpretrain, mmdet, mmrotate or mmseg, in pixels of the images; ground
            truth or prediction may be missing.
        meta: metadata of the data set: ``classes`` and perhaps ``palette``; for mtp's
            samples ``datasets``.
        side: height of a picture, pixels; pictures of objects have sizes of their own.

    Raises:
        ValueError: the sample is of another kind.
    """
    if isinstance(sample, DataSample):
        yield _scene(_scaled(images[0], side), sample, meta), _classes(sample, 'gt', meta), set()
    elif isinstance(sample, SegDataSample):
        pair = len(images) == 2
        for image, text in zip(images, ('first date', 'second date') if pair else ('image',)):
            yield _scaled(image, side), text, set()
        for row, text in ROWS.items():
            if f'{row}_sem_seg' in sample:
                seg_map = sample.get(f'{row}_sem_seg').data.squeeze(0).cpu().numpy()
                labels = {*np.unique(seg_map).tolist()} & {*range(len(meta['classes']))}
                picture = images[-1].copy()
                for label in labels:
                    # opaque for a pair: the image shows only where it is ignored
                    shade(picture, seg_map == label, colour_of(meta, label), 1 if pair else 0.6)
                yield _scaled(picture, side), text, labels
    elif isinstance(sample, DetDataSample):
        picture = _objects(images[0], sample, meta)
        text = sample.get('dataset') or f'{len(sample.gt_instances)} objects'
        yield picture, text, set()
    else:
        raise ValueError(
            f'a sample of {type(sample).__name__} cannot be drawn: known are those of '
            'mtp, mmpretrain, mmdet, mmrotate and mmseg'
        )


def _classes(sample: DataSample, row: str, meta: dict) -> str:
    labels = sample.get(f'{row}_label')
    if labels is None:
        return f'no {ROWS[row]}'
    return f'{ROWS[row]}: ' + ', '.join(meta['classes'][label] for label in labels.tolist())


def _scene(tile: np.ndarray, sample: DataSample, meta: dict) -> np.ndarray:
    if 'pred_label' not in sample:
        return tile
    scores = ', '.join(f'{sample.pred_score[i]:.2f}' for i in sample.pred_label.tolist())
    return captioned(tile, f'{_classes(sample, "pred", meta)} {scores}')


def _objects(
    image: np.ndarray, sample: DetDataSample, meta: dict, score_thr: float = 0.3
) -> np.ndarray:
    if 'datasets' in meta:
        return draw_sample(image, sample, meta['datasets'][sample.dataset], score_thr)
    # mmdet and mmrotate use one name for all boxes, and an empty entry without ground truth
    fields = {}
    for row in ROWS:
        found = sample.get(f'{row}_instances')
        if found is not None and 'bboxes' in found:
            task = 'rotated' if found.bboxes.shape[-1] == 5 else 'instance'
            fields[f'{row}_{label_table()[task].name}'] = found
    return draw_sample(image, DetDataSample(**fields), meta, score_thr)


def _scaled(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / image.shape[0]
    return cv2.resize(
        image,
        None,
        fx=scale,
        fy=scale,
        interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA,
    )
