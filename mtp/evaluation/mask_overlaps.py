"""Run lengths of masks that lie inside boxes."""

import numpy as np
from pycocotools import mask as coco_mask


def encode_masks(masks: np.ndarray, boxes: np.ndarray) -> tuple[list[dict], list[float]]:
    """COCO's compressed run lengths, from the pixels of each box only.

    Equal, byte for byte, to ``pycocotools.mask.encode`` of the whole masks, as long as a mask is 0
    where it is more than a pixel away from its box. mmdet's masks are: on CPU it pastes no further,
    on CUDA what it pastes beyond a box is below a half, and so is not in a mask at
    ``mask_thr_binary`` 0.5 and above.

    Args:
        masks: bool or uint8 ``(N, H, W)``.
        boxes: x1, y1, x2, y2 in pixels, ``(N, 4)``.

    Returns:
        tuple: a dict of ``size`` and ``counts`` for each mask, and the numbers of its pixels.
    """
    height, width = masks.shape[1:]
    low = np.floor(boxes[:, :2]).astype(np.int64) - 1
    high = np.ceil(boxes[:, 2:]).astype(np.int64) + 1
    low, high = (corner.clip(0, (width, height)).tolist() for corner in (low, high))
    runs, areas = [], []
    for mask, (x1, y1), (x2, y2) in zip(masks, low, high):
        edges = _edges(mask[y1:y2, x1:x2], x1, y1, height)
        counts = np.diff(edges, prepend=0, append=height * width)
        if len(edges) and not counts[-1]:  # the last pixel is the mask's: no background follows
            counts = counts[:-1]
        runs.append(dict(size=[height, width], counts=counts))
        areas.append(float((edges[1::2] - edges[::2]).sum()))
    return coco_mask.frPyObjects(runs, height, width) if runs else [], areas


def _edges(crop: np.ndarray, x: int, y: int, height: int) -> np.ndarray:
    """Where runs of pixels begin and end, in turn, counted down the columns of the whole mask."""
    rows, columns = crop.shape
    # A background pixel above and below: no run goes from one column into the next.
    padded = np.zeros((columns, rows + 2), np.uint8)
    padded[:, 1:-1] = crop.T
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), rows + 1)
    edges = (x + column) * height + y + row
    if rows == height:  # ... but where a column ends on a pixel and the next begins with one
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    return edges
