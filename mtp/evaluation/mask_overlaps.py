"""Run lengths of masks inside boxes."""

import numpy as np
from pycocotools import mask as coco_mask


def encode_masks(masks: np.ndarray, boxes: np.ndarray) -> tuple[list[dict], list[float]]:
    """Encode masks as COCO's compressed run lengths, from the pixels of each box only.

    Equal, byte for byte, to ``pycocotools.mask.encode`` of the whole masks, if a mask is 0 more
    than one pixel outside its box. This holds for mmdet's masks. On CPU, mmdet pastes no further;
    on CUDA, the values that it pastes outside a box are below 0.5, so they are not in a mask if
    ``mask_thr_binary`` is 0.5 or above.

    Args:
        masks: masks ``(N, H, W)``, bool or uint8.
        boxes: boxes ``(N, 4)``: x1, y1, x2, y2, pixels.

    Returns:
        tuple: a dict of ``size`` and ``counts`` for each mask, and the area of each mask, pixels.
    """
    height, width = masks.shape[1:]
    low = np.floor(boxes[:, :2]).astype(np.int64) - 1
    high = np.ceil(boxes[:, 2:]).astype(np.int64) + 1
    low, high = (corner.clip(0, (width, height)).tolist() for corner in (low, high))
    runs, areas = [], []
    for mask, (x1, y1), (x2, y2) in zip(masks, low, high):
        edges = _edges(mask[y1:y2, x1:x2], x1, y1, height)
        counts = np.diff(edges, prepend=0, append=height * width)
        if len(edges) and not counts[-1]:  # the mask includes the last pixel: no background follows
            counts = counts[:-1]
        runs.append(dict(size=[height, width], counts=counts))
        areas.append(float((edges[1::2] - edges[::2]).sum()))
    return coco_mask.frPyObjects(runs, height, width) if runs else [], areas


def _edges(crop: np.ndarray, x: int, y: int, height: int) -> np.ndarray:
    """Return where runs of pixels begin and end, in turn, numbered column by column of the mask."""
    rows, columns = crop.shape
    # With a background pixel above and below, no run continues into the next column,
    padded = np.zeros((columns, rows + 2), np.uint8)
    padded[:, 1:-1] = crop.T
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), rows + 1)
    edges = (x + column) * height + y + row
    if rows == height:  # but runs that end a column are joined to those that begin the next
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    return edges
