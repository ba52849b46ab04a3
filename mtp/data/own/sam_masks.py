"""Masks from boxes with a Segment Anything model (SAM), as the paper made SAMRS."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask

from mtp.data.decoding import read_image
from mtp.data.own.contents import LabelledObject
from mtp.data.run_lengths import decode_mask
from mtp.files import UnusableFileError, write_json

SAM_SIDE = 1024  # longer side in pixels at which SAM's released models see an image
# A mask is left out if more than this share of it is beyond its box. Boxes are whole pixels and
# one more here: a tenth of a small object is less than the pixels at its edge.
MAX_OUTSIDE = 0.1
MARGIN = 1
OUTSIDE = f'masks of which more than {MAX_OUTSIDE:.0%} leaves the box'
EMPTY = 'boxes in which the model finds no mask'

BOXES_AT_ONCE = 64
PIXELS_AT_ONCE = 1 << 26  # of masks at the size of the image: 256 MB as float32


class MaskPredictor(Protocol):
    """What makes masks from boxes.

    Attributes:
        name: name of the model; masks of an interrupted import are kept for the same one.
    """

    name: str

    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return a mask for each box, bool ``(N, H, W)``.

        Args:
            image: image, uint8 RGB ``(H, W, 3)``.
            boxes: boxes of the N objects, float64 ``(N, 4)``: x1, y1, x2, y2 in its pixels.
        """
        ...


class SamPredictor:
    """A SAM model of transformers.

    Args:
        model: transformers' ``SamModel``.
        processor: its ``SamProcessor``.
        name: name or path of the weights.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return a mask for each box, as :class:`MaskPredictor` says; the image is encoded once."""
        device = self.model.device
        inputs = self.processor(image, input_boxes=[boxes.tolist()], return_tensors='pt')
        features = self.model.get_image_embeddings(inputs['pixel_values'].to(device))
        prompts = inputs['input_boxes'].float()
        at_once = max(1, min(BOXES_AT_ONCE, PIXELS_AT_ONCE // image[..., 0].size))
        masks = []
        for part in prompts.split(at_once, 1):
            found = self.model(
                image_embeddings=features, input_boxes=part.to(device), multimask_output=False
            )
            (whole,) = self.processor.post_process_masks(
                found.pred_masks, inputs['original_sizes'], inputs['reshaped_input_sizes']
            )
            masks.append(whole[:, 0].cpu().numpy())
        return np.concatenate(masks)


def load_sam(source: str) -> SamPredictor:
    """Load a SAM model, on a GPU if there is one.

    Args:
        source: name of weights on the Hugging Face hub, or a folder that holds them.

    Raises:
        UnusableFileError: transformers is not installed, or the weights cannot be loaded.
    """
    try:
        from transformers import SamModel, SamProcessor
    except ImportError as error:
        raise UnusableFileError(
            f"--masks sam needs transformers ({error}): pip install 'mtp[sam]'"
        ) from error
    try:
        processor = SamProcessor.from_pretrained(source)
        model: Any = SamModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        first = str(error).strip().partition('\n')[0]
        raise UnusableFileError(
            f'--sam {source}: {first} Give a name on the Hugging Face hub, or a folder with '
            'config.json, preprocessor_config.json and model.safetensors'
        ) from error
    model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()
    return SamPredictor(model, processor, source)


def masks_from_boxes(
    predict: MaskPredictor,
    image: Path,
    objects: Sequence[tuple[LabelledObject, np.ndarray]],
    left_out: dict[str, int],
) -> Iterator[tuple[LabelledObject, np.ndarray, np.ndarray]]:
    """Yield the objects of an image with their corners and masks, uint8 ``(H, W)``.

    A rotated box prompts with the horizontal one around it. Masks are kept beside the image, for
    an import that is started again.

    Args:
        predict: what makes the masks.
        image: file of the image.
        objects: its objects, with their corners ``(4, 2)`` in its pixels.
        left_out: counts of what is left out, by reason.
    """
    if not objects:
        return
    corners = np.array([corners for _, corners in objects], float)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    for (each, points), box, mask in zip(objects, boxes, _masks(predict, image, boxes)):
        if not mask.any():
            left_out[EMPTY] += 1
        elif share_outside(mask, box) > MAX_OUTSIDE:
            left_out[OUTSIDE] += 1
        else:
            yield each, points, mask


def share_outside(mask: np.ndarray, box: np.ndarray) -> float:
    """Return the share of a mask's pixels that is beyond its box by more than a pixel, 0..1."""
    x1, y1 = np.maximum(np.floor(box[:2]).astype(int) - MARGIN, 0)
    x2, y2 = np.ceil(box[2:]).astype(int) + MARGIN
    return 1 - float(mask[y1:y2, x1:x2].sum() / mask.sum())


def _masks(predict: MaskPredictor, image: Path, boxes: np.ndarray) -> list[np.ndarray]:
    kept = image.with_name(f'{image.name}.masks.json')
    asked = dict(model=predict.name, boxes=boxes.tolist())
    if kept.is_file():
        content = json.loads(kept.read_bytes())
        if content['asked'] == asked:
            return [decode_mask(mask, *mask['size']) for mask in content['masks']]
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    # what is beyond the image is nothing that a prompt can show
    found = predict(pixels, np.clip(boxes, 0, [width, height, width, height]))
    masks = [np.asfortranarray(mask, np.uint8) for mask in found]
    encoded = [coco_mask.encode(mask) for mask in masks]
    lines = [dict(size=[height, width], counts=each['counts'].decode()) for each in encoded]
    write_json(kept, dict(asked=asked, masks=lines))
    return masks
