"""The paper's model in its own structure: the reference of the training benchmark.

The encoder passes once over the images of all data sets; then each decoder passes once over each
data set. Decoders are the libraries' own modules with their per-image assigners, samplers and NMS.
A part that the data sets share is one module in several decoders. Parameters have the shapes of
ours, and :func:`load` copies them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, ModuleDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mtp.models.backbones import Backbone, attention, dcnv3
from paper import heads, plain

# Names of what a decoder has per data set -> their names in our model.
OWN = {
    r'^semantic\.(\w+)\.conv_seg\.': r'tasks.semantic.classifiers.\1.1.',
    r'^(\w+)\.(\w+)\.roi_head\.(bbox|mask)_head\.(fc_cls|fc_reg|conv_logits)\.': (
        r'tasks.\1.roi_head.\3_heads.\2.\4.'
    ),
}
SHARED = {
    r'^semantic\.\w+\.': 'tasks.semantic.decode_head.',
    r'^(instance|rotated)\.\w+\.': r'tasks.\1.',
}


class PaperModel(BaseModel):
    """The multi-task model as the paper's code runs it.

    Args:
        backbone: backbone with four feature maps.
        num_classes: data set -> number of classes.
        size: side to which images are padded, pixels.
        small: whether to take the small decoders.
    """

    def __init__(
        self, backbone: Backbone, num_classes: dict[str, int], size: int, small: bool
    ) -> None:
        super().__init__(
            data_preprocessor=DetDataPreprocessor(
                mean=(123.675, 116.28, 103.53),
                std=(58.395, 57.12, 57.375),
                bgr_to_rgb=True,
                pad_mask=True,
                pad_seg=True,
                pad_size_divisor=size,
                boxtype2tensor=False,
            )
        )
        self.backbone = backbone
        channels = list(backbone.out_channels)
        with DefaultScope.overwrite_default_scope('mmdet'):
            for task in ('semantic', 'instance', 'rotated'):
                make = getattr(heads, task)
                self.add_module(
                    task,
                    ModuleDict(
                        {
                            name: MODELS.build(ConfigDict(make(channels, classes, small)))
                            for name, classes in num_classes.items()
                        }
                    ),
                )
        for first, *others in (
            part.values() for part in (self.semantic, self.instance, self.rotated)
        ):
            for other in others:
                _share(other, first)
            # The libraries' box arithmetic does not take bfloat16, which autocast would give it.
            for part in ('neck', 'rpn_head'):
                if hasattr(first, part):
                    getattr(first, part).register_forward_hook(lambda *io: _in_float32(io[-1]))

    def forward(self, inputs: Tensor, data_samples: SampleList, mode: str) -> dict[str, Tensor]:
        """Return the losses by ``<data set>.<task>.<term>``."""
        features = self.backbone(inputs)
        losses = {}
        for name in self.semantic:
            chosen = [i for i, sample in enumerate(data_samples) if sample.dataset == name]
            own = slice(chosen[0], chosen[-1] + 1)  # one data set's images follow one another
            maps, samples = [feature[own] for feature in features], data_samples[own]
            for task, found in (
                (
                    'semantic',
                    self.semantic[name].loss(
                        maps, [_semantic_sample(sample) for sample in samples], {}
                    ),
                ),
                (
                    'instance',
                    self.instance[name].loss(
                        maps, [_instance_sample(sample) for sample in samples]
                    ),
                ),
                (
                    'rotated',
                    self.rotated[name].loss(maps, [_rotated_sample(sample) for sample in samples]),
                ),
            ):
                losses |= {f'{name}.{task}.{term}': value for term, value in found.items()}
        return losses


def _in_float32(maps: tuple) -> tuple:
    return tuple(m.float() if isinstance(m, Tensor) else _in_float32(m) for m in maps)


def _share(decoder: nn.Module, first: nn.Module) -> None:
    """Give a decoder the modules of the first data set's decoder, except for its last layers."""
    if hasattr(decoder, 'conv_seg'):
        for name, child in first.named_children():
            if name != 'conv_seg':
                setattr(decoder, name, child)
        return
    decoder.neck, decoder.rpn_head = first.neck, first.rpn_head
    decoder.roi_head.bbox_head.shared_fcs = first.roi_head.bbox_head.shared_fcs
    if decoder.roi_head.with_mask:
        for name in ('convs', 'upsample'):
            setattr(decoder.roi_head.mask_head, name, getattr(first.roi_head.mask_head, name))


def _semantic_sample(sample: DetDataSample) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=sample.gt_sem_seg.sem_seg.long()))


def _instance_sample(sample: DetDataSample) -> DetDataSample:
    fields = {}
    for name in ('gt_instances', 'ignored_instances'):
        if name in sample:
            fields[name] = InstanceData(**dict(sample.get(name).items()))
            fields[name].bboxes = get_box_tensor(fields[name].bboxes)
    return DetDataSample(metainfo=sample.metainfo, **fields)


def _rotated_sample(sample: DetDataSample) -> DetDataSample:
    return DetDataSample(metainfo=sample.metainfo, gt_instances=sample.gt_rotated_instances)


def load(model: PaperModel, state: dict[str, Tensor]) -> None:
    """Copy the parameters and statistics of our model's state dict."""
    model.load_state_dict({key: state[our_name(key)] for key in model.state_dict()})


def our_name(key: str) -> str:
    """Return our model's name of a parameter of :class:`PaperModel`."""
    for names in (OWN, SHARED):
        for pattern, ours in names.items():
            if re.match(pattern, key):
                return re.sub(pattern, ours, key)
    return key


@contextmanager
def plain_operators() -> Iterator[None]:
    """Let the backbones use the plain formulations of their operators.

    RoIAlign, rotated overlaps and NMS stay mmcv's: compiled ones where mmcv is compiled, else ours,
    which are no slower than those of the paper's code.
    """
    with (
        patch.object(attention, 'window_operands', plain.window_operands),
        patch.object(attention, 'rotated_window_attention', plain.rotated_window_attention),
        patch.object(attention, 'relative_position_attention', plain.relative_position_attention),
        patch.object(dcnv3, 'dcnv3', _dcnv3),
    ):
        yield


def _dcnv3(*args, remove_center: bool, **settings) -> Tensor:
    if remove_center:
        raise ValueError('the plain DCNv3 has all its taps')
    return plain.dcnv3(*args, **settings)
