"""Number of tiles that go through a model at once."""

import numpy as np
import torch

from mtp.prediction.model import ImageModel
from mtp.prediction.run_scene import SIDE

ON_CPU, MOST = 4, 32
USABLE = 0.7  # share of the free memory of a GPU


def fitting_batch(model: ImageModel, side: int | None = None) -> int:
    """Return how many tiles fit into the free memory of the model's device.

    On a GPU one tile is predicted, and its memory is measured; on a CPU more than a few at once
    are no faster.

    Args:
        model: the model.
        side: side of a tile in pixels; None for the model's own.
    """
    if model.device.type != 'cuda':
        return ON_CPU
    side = side or model.side or SIDE
    shape = (side, side, model.loader.channels)
    dtype = np.uint8 if model.loader.bands is None else np.dtype(model.loader.bands.dtype)
    image = np.zeros(shape, dtype)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    model((image, image) if model.loader.is_pair else image)
    needed = torch.cuda.max_memory_allocated(model.device) - before
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(max(1, min(MOST, USABLE * free // max(needed, 1))))
