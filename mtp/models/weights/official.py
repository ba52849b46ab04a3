"""Official whole multi-task checkpoints -> state dicts of :class:`MultiTaskPretrainer`."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

# Official name -> ours; {k} is the 1-based index of the data set, {name} its name.
_RULES = (
    (r'encoder\.', r'backbone.'),
    (r'semsegdecoder\.decode_head\.', r'tasks.semantic.decode_head.'),
    (r'semseghead_(?P<k>\d+)\.', r'tasks.semantic.classifiers.{name}.'),
    (r'inssegdecoder\.', r'tasks.instance.'),
    (
        r'inssegroiboxhead_fc_(?P<fc>cls|reg)(?P<k>\d+)\.',
        r'tasks.instance.roi_head.bbox_heads.{name}.fc_\g<fc>.',
    ),
    (
        r'inssegroimaskhead_conv(?P<k>\d+)\.',
        r'tasks.instance.roi_head.mask_heads.{name}.conv_logits.',
    ),
    (r'rotdetdecoder\.', r'tasks.rotated.'),
    (
        r'rotdetroiboxhead_fc_(?P<fc>cls|reg)(?P<k>\d+)\.',
        r'tasks.rotated.roi_head.bbox_heads.{name}.fc_\g<fc>.',
    ),
)


def convert_official(
    state: Mapping[str, Tensor], datasets: Sequence[str] = ('sota', 'sior', 'fast')
) -> dict[str, Tensor]:
    """Rename every tensor of an official whole-model checkpoint.

    Args:
        state: state dict of the official model (keys ``encoder.*``, ``semsegdecoder.*``, ...).
        datasets: names of the official data sets 1, 2, 3, ... in the model.

    Returns:
        dict: the same tensors under the names of :class:`MultiTaskPretrainer`, tasks
        ``semantic``, ``instance`` and ``rotated``.

    Raises:
        ValueError: a key belongs to no official module, or to a data set beyond ``datasets``.
    """
    converted, unknown = {}, []
    for key, tensor in state.items():
        new = _rename(key, datasets)
        if new is None:
            unknown.append(key)
        else:
            converted[new] = tensor
    if unknown:
        raise ValueError(
            f'{len(unknown)} of {len(state)} keys are not of an official MTP multi-task model with '
            f'{len(datasets)} data sets, e.g. {unknown[:3]}: this converts whole pretraining '
            'checkpoints only; an encoder alone loads as it is with build_backbone(pretrained=...)'
        )
    return converted


def _rename(key: str, datasets: Sequence[str]) -> str | None:
    for pattern, replacement in _RULES:
        match = re.match(pattern, key)
        if match:
            number = match.groupdict().get('k')
            if number is not None and int(number) > len(datasets):
                return None
            name = datasets[int(number) - 1] if number else ''
            return match.expand(replacement.replace('{name}', name)) + key[match.end() :]
    return None
