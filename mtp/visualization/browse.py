"""A picture of a config's training samples, as loaded and as augmented."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope

from mtp.data import LoadImage, LoadLabels
from mtp.data.bands import as_picture
from mtp.data.multitask_dataset import seeded, stable_hash
from mtp.models.photometric import distort
from mtp.registry import short_name
from mtp.visualization.samples import draw, with_legend
from mtp.visualization.visualizer import captioned, frame

# Height of an image and largest width of a picture of several images, pixels.
TILE, MAX_WIDTH = 320, 1400
# Prefixes of the transforms that load or pack a sample; all others change it.
KEPT = ('Load', 'Convert', 'Pack')
# Transform that loads a part of a sample -> transforms that load the whole of it.
WHOLE = {'LoadCrop': (dict(type=LoadImage), dict(type=LoadLabels))}


def browse(cfg: Config, num: int = 8, seed: int = 0) -> np.ndarray:
    """Draw samples of the training set with their labels: as loaded (left), as augmented (right).

    Args:
        cfg: config of any task, with a ``train_dataloader``.
        num: number of samples, drawn at random.
        seed: seed of the choice of samples and of the augmentations.

    Returns:
        ndarray: picture ``(H, W, 3)``, uint8 RGB.

    Raises:
        ValueError: the pipeline packs samples of an unknown kind.
        FileNotFoundError: the data are missing.
    """
    init_default_scope(cfg.get('default_scope', 'mtp'))
    augmented = DATASETS.build(cfg.train_dataloader.dataset)
    loaded = DATASETS.build(only_loading(cfg.train_dataloader.dataset))
    dates = 2 if _holds(cfg.train_dataloader.dataset, 'LoadPair') else 1
    rng = np.random.default_rng(seed)
    rows = []
    for index in sorted(rng.permutation(len(loaded))[:num].tolist()):
        tiles = []
        for dataset, caption in ((loaded, 'loaded'), (augmented, 'augmented')):
            with seeded(stable_hash(seed, index)):
                sample = dataset[index]
            truth, meta = sample['data_samples'], dataset.metainfo
            name = Path(truth.get('img_path', '')).name
            inputs = sample['inputs']
            if 'distortion' in truth:
                inputs = distort(inputs[None], torch.tensor([truth.distortion]))[0].byte()
            for picture, text, labels in draw(_images(inputs, dates), truth, meta, TILE):
                tile = captioned(_narrowed(picture), f'{text}  ({caption}, {name})')
                tiles.append(with_legend(tile, labels, meta))
        rows.append(frame(tiles))
    return np.concatenate(
        [
            np.pad(
                row,
                ((0, 0), (0, max(r.shape[1] for r in rows) - row.shape[1]), (0, 0)),
                constant_values=245,
            )
            for row in rows
        ]
    )


def only_loading(node: Any) -> Any:
    """Return a data set's config with only the transforms that load and pack samples."""
    if isinstance(node, dict):
        return ConfigDict(
            {
                key: [
                    whole
                    for step in value
                    if short_name(step['type']).startswith(KEPT)
                    for whole in WHOLE.get(short_name(step['type']), [step])
                ]
                if key == 'pipeline'
                else only_loading(value)
                for key, value in node.items()
            }
        )
    return [only_loading(value) for value in node] if isinstance(node, list) else node


def _images(inputs: torch.Tensor, dates: int) -> list[np.ndarray]:
    """Show ``(dates * N, H, W)``, BGR or bands, as ``dates`` images ``(H, W, 3)``, uint8 RGB."""
    images = [image.numpy().transpose(1, 2, 0) for image in inputs.chunk(dates)]
    return [as_picture(image[..., ::-1] if image.shape[2] == 3 else image) for image in images]


def _holds(node: Any, name: str) -> bool:
    """Return whether a config holds a transform."""
    if isinstance(node, dict):
        return short_name(node.get('type', '')) == name or any(
            _holds(v, name) for v in node.values()
        )
    return isinstance(node, list) and any(_holds(value, name) for value in node)


def _narrowed(picture: np.ndarray) -> np.ndarray:
    scale = min(1, MAX_WIDTH / picture.shape[1])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
