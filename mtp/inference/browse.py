"""A page of a config's training samples: as loaded, and as the augmentations make them."""
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mtp.data.multitask import seeded, stable_hash
from mtp.data.samrs import PALETTE
from mtp.inference.visualizer import captioned, draw_sample, frame, legend

# Height of an image in pixels, and the largest width of a picture of several.
TILE, MAX_WIDTH = 320, 1400
# How the transforms are called that load a sample and pack it; all others change it.
KEPT = ('Load', 'Convert', 'Pack')


def browse(cfg: Config, num: int = 8, seed: int = 0) -> np.ndarray:
    """Draw samples of the training set with their labels: left as loaded, right as augmented.

    Args:
        cfg: of any task, with a ``train_dataloader``.
        num: number of samples, drawn at random.
        seed: of the choice and of the augmentations.

    Returns:
        ndarray: uint8 RGB.

    Raises:
        ValueError: the pipeline packs no sample of a known kind.
        FileNotFoundError: the data are missing.
    """
    init_default_scope(cfg.get('default_scope', 'mtp'))
    augmented = DATASETS.build(cfg.train_dataloader.dataset)
    loaded = DATASETS.build(only_loading(cfg.train_dataloader.dataset))
    rng = np.random.default_rng(seed)
    rows = []
    for index in sorted(rng.permutation(len(loaded))[:num].tolist()):
        tiles = []
        for dataset, caption in ((loaded, 'loaded'), (augmented, 'augmented')):
            with seeded(stable_hash(seed, index)):
                sample = dataset[index]
            name = Path(sample['data_samples'].get('img_path', '')).name
            for picture, text, labels in draw(sample, dataset.metainfo):
                tile = captioned(picture, f'{text}  ({caption}, {name})')
                key = legend(labels, dataset.metainfo, tile.shape[1])
                tiles.append(np.concatenate([tile, key]) if labels else tile)
        rows.append(frame(tiles))
    return np.concatenate([np.pad(row, ((0, 0), (0, max(r.shape[1] for r in rows) - row.shape[1]),
                                        (0, 0)), constant_values=245) for row in rows])


def only_loading(node):
    """A data set's config with the transforms that load and pack, without those that change."""
    if isinstance(node, dict):
        return ConfigDict({
            key: [step for step in value if _name(step['type']).startswith(KEPT)]
            if key == 'pipeline' else only_loading(value) for key, value in node.items()})
    return [only_loading(value) for value in node] if isinstance(node, list) else node


def _name(type_: type | str) -> str:
    return type_.rpartition('.')[2] if isinstance(type_, str) else type_.__name__


def draw(sample: dict, meta: dict) -> Iterator[tuple[np.ndarray, str, set[int]]]:
    """Pictures of a packed sample, uint8 RGB, what they show, and labels that need a legend.

    Args:
        sample: ``inputs`` uint8 ``(3, H, W)`` BGR, or ``(6, H, W)`` for a pair, and
            ``data_samples`` of mtp, mmpretrain, mmdet, mmrotate or mmseg.
        meta: ``classes`` and, for areas, ``palette``; of mtp's samples ``datasets``.

    Raises:
        ValueError: another kind of sample.
    """
    truth, inputs = sample['data_samples'], sample['inputs']
    images = [np.ascontiguousarray(image.numpy()[::-1].transpose(1, 2, 0))
              for image in inputs.to(torch.uint8).split(3)]
    if isinstance(truth, DataSample):
        names = [meta['classes'][label] for label in truth.gt_label.tolist()]
        yield _tile(images[0]), ', '.join(names), set()
    elif isinstance(truth, SegDataSample):
        pair = len(images) == 2
        for image, text in zip(images, ('first date', 'second date') if pair else ('image',)):
            yield _tile(image), text, set()
        labels = {*truth.gt_sem_seg.data.unique().tolist()} & {*range(len(meta['classes']))}
        # laid over the image; of a pair drawn alone: the image shows only where it is ignored
        visualizer = SegLocalVisualizer(alpha=1 if pair else 0.6)
        visualizer.dataset_meta = meta
        visualizer.add_datasample('', images[-1], truth, draw_pred=False, with_labels=False)
        yield _tile(visualizer.get_image()), 'label', labels
    elif isinstance(truth, DetDataSample):
        if 'datasets' in meta:
            meta, text = meta['datasets'][truth.dataset], truth.dataset
        else:
            boxes = truth.gt_instances
            kind = 'rotated_instances' if boxes.bboxes.shape[-1] == 5 else 'instances'
            truth = DetDataSample(**{f'gt_{kind}': boxes})
            meta = dict(classes=meta['classes'],
                        palette=meta.get('palette') or PALETTE * 2)  # xView has 60 classes
            text = f'{len(boxes)} objects'
        picture = draw_sample(images[0], truth, meta)
        yield _scaled(picture, min(1, MAX_WIDTH / picture.shape[1])), text, set()
    else:
        raise ValueError(f'a sample of {type(truth).__name__} cannot be drawn: known are those of '
                         'mtp, mmpretrain, mmdet, mmrotate and mmseg')


def _tile(image: np.ndarray) -> np.ndarray:
    return _scaled(image, TILE / image.shape[0])


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(image, None, fx=scale, fy=scale,
                      interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
