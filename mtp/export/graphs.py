"""Models as graphs without mtp: ONNX, and the programs of ``torch.export``.

A graph takes normalised float32 images ``(B, bands, H, W)``. What can be exported, and which axes
stay free, is in docs/export.md.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from mmdet.models import RetinaNet
from mmpretrain.models import ImageClassifier
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from mtp.files import UnusableFileError, whole
from mtp.models.backbones.factory import Backbone
from mtp.models.backbones.internimage import InternImage
from mtp.models.siamese_unet import SiameseEncoderDecoder
from mtp.ops.deform_conv import undivided

TOLERANCE = 1e-4  # largest difference from eager PyTorch, as a share of an output's range
MOST_BOXES = 1000  # candidates of an image before NMS


@dataclass(frozen=True)
class Portable:
    """A model in the form that is exported.

    Attributes:
        module: module from one tensor of images to a tuple of tensors.
        outputs: names of the outputs.
        bands: number of bands of the images.
        free_size: whether one graph takes images of any size, not of one alone.
        free_batch: whether one graph takes any number of images, not a single one alone.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    bands: int
    free_size: bool = False
    free_batch: bool = True


class _Encoder(nn.Module):
    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images))


class _Classifier(_Encoder):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model(images).softmax(1),)


class _Segmenter(_Encoder):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self.model.decode_head(self.model.extract_feat(images))
        logits = F.interpolate(
            logits, images.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )
        return (logits,)


class _Detector(_Encoder):
    """RetinaNet: boxes of all anchors, with their scores."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        scores, deltas = self.model._forward(images)
        sizes = [level.shape[-2:] for level in scores]
        anchors = torch.cat(head.prior_generator.grid_priors(sizes, device=images.device))
        scores, deltas = (
            torch.cat(
                [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, of_one)) for level in part],
                1,
            )
            for part, of_one in ((scores, head.num_classes), (deltas, 4))
        )
        boxes = head.bbox_coder.decode(
            anchors.expand(deltas.shape[0], -1, -1), deltas, max_shape=images.shape[2:]
        )
        return boxes, scores.sigmoid()


class _SuppressingDetector(_Detector):
    """RetinaNet with NMS of each class, for a single image."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = (part[0] for part in super().forward(images))
        best, labels = scores.max(1)
        score, index = best.topk(min(MOST_BOXES, best.shape[0]))
        boxes, labels = boxes[index], labels[index]
        # boxes of different classes are moved apart, so that they never overlap
        apart = labels[:, None] * (boxes.max() - boxes.min() + 1)
        kept = torchvision.ops.nms(boxes + apart, score, self.model.test_cfg.nms.iou_threshold)
        return boxes[kept], score[kept], labels[kept]


def portable(model: Any, nms: bool = False) -> Portable:
    """Return a model in the form that is exported.

    Args:
        model: encoder, or model of a finetuning config.
        nms: whether boxes of a detector go through NMS.

    Raises:
        ValueError: such a model is not exported; the message says why.
    """
    if nms and not isinstance(model, RetinaNet):
        raise ValueError(f'a {type(model).__name__} has no NMS that can be exported')
    if isinstance(model, Backbone):
        names = tuple(f'stride{stride}' for stride in model.strides)
        free = isinstance(model, InternImage)
        return Portable(_Encoder(model), names, model.in_chans, free_size=free)
    bands = getattr(getattr(model, 'backbone', None), 'in_chans', 3)
    if isinstance(model, ImageClassifier):
        return Portable(_Classifier(model), ('probabilities',), bands)
    if isinstance(model, EncoderDecoder):
        pair = 2 if isinstance(model, SiameseEncoderDecoder) else 1
        return Portable(_Segmenter(model), ('logits',), pair * bands)
    if isinstance(model, RetinaNet):
        if nms:
            names = ('boxes', 'scores', 'labels')
            return Portable(_SuppressingDetector(model), names, bands, free_batch=False)
        return Portable(_Detector(model), ('boxes', 'scores'), bands)
    raise ValueError(
        f'a {type(model).__name__} is not exported: its second stage works on boxes that NMS '
        'chooses within the model, and ONNX has neither NMS nor RoIAlign of rotated boxes'
    )


def trace(
    form: Portable, size: tuple[int, int], int8: bool = False
) -> torch.export.ExportedProgram:
    """Return the graph of a model.

    Args:
        form: model, see :func:`portable`.
        size: height and width of the images, pixels; without meaning where the size is free.
        int8: whether the weights of linear layers are stored as 8-bit integers, by torchao. The
            model is changed in place.
    """
    module = form.module.eval().requires_grad_(False)
    if int8:
        _quantize(module)
    height, width = (160, 192) if form.free_size else size  # sides that differ stay apart
    images = torch.zeros(2 if form.free_batch else 1, form.bands, height, width)
    auto = torch.export.Dim.AUTO
    axes = {0: auto} if form.free_batch else {}
    axes |= {2: auto, 3: auto} if form.free_size else {}
    with torch.no_grad(), undivided(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return torch.export.export(module, (images,), dynamic_shapes=(axes,), strict=False)


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a graph for ``torch.export.load``."""
    with whole(path) as unfinished, open(unfinished, 'wb') as file:
        torch.export.save(program, file)


def write_onnx(program: torch.export.ExportedProgram, form: Portable, path: Path) -> float | None:
    """Write a graph as ONNX, and compare it with PyTorch on random images.

    One with NMS is not compared: on such images the order of scores, which rounding changes,
    decides what is kept.

    Args:
        program: graph.
        form: model that it was made of.
        path: file to write; weights of over 2 GB are beside it.

    Returns:
        float: largest difference, as a share of an output's range; None if not compared.

    Raises:
        UnusableFileError: it differs by more than :data:`TOLERANCE`; the file is removed.
    """
    _need('onnx', 'onnxruntime', 'onnxscript')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made = torch.onnx.export(
            program,
            input_names=['images'],
            output_names=list(form.outputs),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)
    if isinstance(form.module, _SuppressingDetector):
        return None
    (taken,) = (
        node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    )
    sides = [side if isinstance(side, int) else 2 for side in taken.meta['val'].shape]
    if form.free_size:
        sides[2:] = [96, 128]
    images = torch.randn(sides, generator=torch.Generator().manual_seed(0))
    found = onnx_difference(path, form.module, [images])
    if found > TOLERANCE:
        path.unlink()
        raise UnusableFileError(
            f'{path}: onnxruntime differs from PyTorch by {found:.1e} of the range, more than '
            f'{TOLERANCE}; it is removed. Export with --to torch_export'
        )
    return found


def _need(*packages: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        ValueError: one is missing; the message says how to install it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"this needs {', '.join(missing)}: pip install 'mtp[export]'")


def onnx_difference(path: Path, module: nn.Module, batches: Sequence[Tensor]) -> float:
    """Return the largest difference of an ONNX file from a module, as a share of the range.

    Args:
        path: ONNX file.
        module: module that it was made of.
        batches: batches of images.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    largest = 0.0
    for images in batches:
        outputs = session.run(None, {'images': images.numpy()})
        with torch.no_grad():
            expected = [output.numpy() for output in module(images)]
        for actual, right in zip(outputs, expected, strict=True):
            if actual.shape != right.shape:
                return float('inf')
            span = float(np.ptp(right)) if right.size else 0.0
            largest = max(largest, float(np.abs(actual - right).max(initial=0)) / (span or 1.0))
    return largest


def _quantize(module: nn.Module) -> None:
    _need('torchao')
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig())
