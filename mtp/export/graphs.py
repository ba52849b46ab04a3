"""Models as graphs without mtp: ONNX, and the programs of ``torch.export``.

A graph takes normalised float32 images ``(B, bands, H, W)``. What can be exported, and which axes
stay free, is in docs/export.md.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models import FasterRCNN, RetinaNet
from mmpretrain.models import ImageClassifier
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from mtp.compat import onnx_translations
from mtp.export.detectors import ModelForm, OneStage, Suppressing, TwoStage
from mtp.files import UnusableFileError, whole
from mtp.models.backbones.factory import Backbone
from mtp.models.backbones.internimage import InternImage
from mtp.models.siamese_unet import SiameseEncoderDecoder
from mtp.ops.deform_conv import undivided

TOLERANCE = 1e-4  # largest difference from eager PyTorch, as a share of an output's range
# Smallest share of boxes that must be PyTorch's where NMS chooses them: rounding exchanges nearly
# equal scores, and with them what is kept. Of a wrong graph next to none are.
ALIKE = 0.8


@dataclass(frozen=True)
class Portable:
    """A model in the form that is exported.

    Attributes:
        module: module from one tensor of images to a tuple of tensors.
        outputs: names of the outputs.
        bands: number of bands of the images.
        free_size: whether one graph takes images of any size, not of one alone.
        free_batch: whether one graph takes any number of images, not a single one alone.
        chosen: whether NMS decides which boxes the outputs hold, and in which order, so that nearly
            equal scores may exchange them.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    bands: int
    free_size: bool = False
    free_batch: bool = True
    chosen: bool = False


class _Encoder(ModelForm):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images))


class _Classifier(ModelForm):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model(images).softmax(1),)


class _Segmenter(ModelForm):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self.model.decode_head(self.model.extract_feat(images))
        logits = F.interpolate(
            logits, images.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )
        return (logits,)


def portable(model: Any, nms: bool = False) -> Portable:
    """Return a model in the form that is exported.

    Args:
        model: encoder, or model of a finetuning config.
        nms: whether boxes of a detector go through NMS.

    Raises:
        ValueError: such a model is not exported; the message says why.
    """
    if nms and not isinstance(model, (RetinaNet, FasterRCNN)):
        raise ValueError(f'a {type(model).__name__} has no NMS: leave --nms out')
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
    if isinstance(model, (RetinaNet, FasterRCNN)):
        return _detector(model, nms, bands)
    raise ValueError(f'a {type(model).__name__} is not exported: export its encoder')


def _detector(model: RetinaNet | FasterRCNN, nms: bool, bands: int) -> Portable:
    names: tuple[str, ...] = ('boxes', 'scores')
    one_stage = isinstance(model, RetinaNet)
    detector = OneStage(model) if one_stage else TwoStage(model)
    if not nms:
        return Portable(detector, names, bands, free_batch=one_stage, chosen=not one_stage)
    cfg = model.test_cfg if one_stage else model.test_cfg.rcnn
    if cfg.nms.type != 'nms':
        raise ValueError(
            f'ONNX has no {cfg.nms.type}: export without --nms, and call mtp.ops.nms_rotated on '
            'what comes out'
        )
    form = Suppressing(detector, cfg)
    return Portable(form, (*names, 'labels'), bands, free_batch=False, chosen=True)


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


def write_onnx(program: torch.export.ExportedProgram, form: Portable, path: Path) -> str:
    """Write a graph as ONNX, and compare it with PyTorch on a random image or two.

    Args:
        program: graph.
        form: model that it was made of.
        path: file to write; weights of over 2 GB are beside it.

    Returns:
        str: what came out of the comparison.

    Raises:
        UnusableFileError: outputs differ by more than :data:`TOLERANCE`, or fewer boxes than
            :data:`ALIKE` are the same; the file is removed.
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
            custom_translation_table=onnx_translations(),
        )
    assert made is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)
    (taken,) = (
        node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    )
    sides = [side if isinstance(side, int) else 2 for side in taken.meta['val'].shape]
    if form.free_size:
        sides[2:] = [96, 128]
    images = torch.randn(sides, generator=torch.Generator().manual_seed(0))
    if form.chosen:
        share = onnx_alike(path, form.module, images)
        found, good = f'{share:.1%} of the boxes are those of PyTorch', share >= ALIKE
    else:
        largest = onnx_difference(path, form.module, [images])
        found = f'largest difference from PyTorch: {largest:.1e} of the range'
        good = largest <= TOLERANCE
    if not good:
        path.unlink()
        raise UnusableFileError(
            f'{path}: {found}, where {ALIKE:.0%} of the boxes, or {TOLERANCE} of the range, is '
            'asked for; it is removed. Export with --to torch_export'
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
    largest = 0.0
    for images in batches:
        for actual, right in _outputs(path, module, images):
            if actual.shape != right.shape:
                return float('inf')
            largest = max(largest, float(np.abs(actual - right).max(initial=0)) / _span(right))
    return largest


def onnx_alike(path: Path, module: nn.Module, images: Tensor) -> float:
    """Return the share of a module's boxes that an ONNX file finds as well, in any order, 0..1.

    Args:
        path: ONNX file.
        module: module that it was made of; its outputs are boxes, scores and maybe labels.
        images: a single image, as a batch.
    """
    outputs = [*_outputs(path, module, images)]
    span = _span(outputs[0][1])
    found, right = (_rows(list(map(torch.from_numpy, parts)), span) for parts in zip(*outputs))
    nearest = torch.cdist(right, found, p=torch.inf).amin(1)
    return float((nearest <= TOLERANCE).float().mean()) * min(1.0, len(right) / len(found))


def _outputs(
    path: Path, module: nn.Module, images: Tensor
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each output of an ONNX file, and that of a module."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    outputs = session.run(None, {'images': images.numpy()})
    with torch.no_grad():
        expected = [output.numpy() for output in module(images)]
    yield from zip(outputs, expected, strict=True)


def _span(values: np.ndarray) -> float:
    return (float(np.ptp(values)) if values.size else 0.0) or 1.0


def _rows(parts: Sequence[Tensor], span: float) -> Tensor:
    """Return boxes over their range, scores and labels of an image side by side, a row for each."""
    boxes = (parts[0][0] if parts[0].dim() > 2 else parts[0]) / span
    columns = [boxes, *parts[1:]]
    return torch.cat([part.float().reshape(len(boxes), -1) for part in columns], 1)


def _quantize(module: nn.Module) -> None:
    _need('torchao')
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig())
