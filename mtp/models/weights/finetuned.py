"""Loading of finetuned checkpoints, as their authors released them, into our models."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mtp.models.weights.loading import check_state, read_state_dict

# Bias of a last layer -> (number of outputs per class, number of outputs for no class).
CLASSIFIERS = {
    'head.fc.bias': (1, 0),
    'decode_head.conv_seg.bias': (1, 0),
    'bbox_head.retina_cls.bias': (9, 0),
    'roi_head.bbox_head.fc_cls.bias': (1, 1),
}


def load_released(model: nn.Module, path: str | Path) -> list[str]:
    """Load a finetuned checkpoint as the authors released it; all entries in use must fit.

    The wrapper and a ``module.`` prefix are removed; for the rest see :func:`convert`.

    Args:
        model: model of a finetuning config.
        path: checkpoint file.

    Returns:
        list: conversions that were made, one line each.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or does not fit.
    """
    state, changes = convert(read_state_dict(path), model, path)
    model.load_state_dict(state)
    return changes


def convert(
    state: Mapping[str, Tensor],
    model: nn.Module,
    path: str | Path,
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert the entries of a released finetuned checkpoint to those of our model.

    Entries that no forward pass uses may be missing or left over, since the released variants of a
    backbone differ in them. They are the class token with its position, the final norm, and the
    pyramid's layers if the model has no pyramid.

    Args:
        state: entries of the file.
        model: model of a finetuning config.
        path: path of the file, for messages.

    Returns:
        tuple: the converted entries, and the conversions that were made, one line each.

    Raises:
        ValueError: the file holds no whole model, one of another backbone or number of classes, or
            one that does not fit for another reason.
    """
    of_backbone = [key.startswith('backbone.') for key in state]
    if all(of_backbone) or not any(of_backbone):
        raise ValueError(
            f'{path} holds no finetuned model: expected a backbone and a head, found '
            f'{", ".join(list(state)[:3])}, ... An encoder goes into '
            'model.backbone.init_cfg of a config, as the start of training'
        )
    state, own, changes = dict(state), model.state_dict(), []
    if 'backbone.cls_token' in state and 'backbone.cls_token' not in own:
        del state['backbone.cls_token']
        changes.append('The class token is left out.')
        key = 'backbone.pos_embed'
        if key in state and key in own and len(state[key][0]) == len(own[key][0]) + 1:
            state[key] = state[key][:, 1:]
    unused: tuple[str, ...] = ('backbone.norm.',)
    if not getattr(model.backbone, 'pyramid', True):
        unused += ('backbone.fpn1.', 'backbone.fpn2.')
    extra = [key for key in state if key.startswith(unused) and key not in own]
    missing = [key for key in own if key.startswith(unused) and key not in state]
    state = {key: value for key, value in state.items() if key not in extra}
    state.update((key, own[key]) for key in missing)
    for title, keys in (('left out', extra), ('missing from the file', missing)):
        if keys:
            changes.append(f'Unused by the model and {title}: {", ".join(keys)}.')

    _check_backbone(state, own, path)
    _check_classes(state, own, path)
    check_state(model, state, path)
    return state, changes


def _check_backbone(state: dict[str, Tensor], own: dict[str, Tensor], path: str | Path) -> None:
    theirs, ours = (
        {key: tuple(value.shape) for key, value in part.items() if key.startswith('backbone.')}
        for part in (state, own)
    )
    if theirs == ours:
        return
    key = next(key for key in (*ours, *theirs) if theirs.get(key) != ours.get(key))
    raise ValueError(
        f'{path} is of another backbone than the model: {key} is '
        f'{theirs.get(key, "missing")} in the file, {ours.get(key, "missing")} in the model. '
        'Name the model that it was trained with'
    )


def _check_classes(state: dict[str, Tensor], own: dict[str, Tensor], path: str | Path) -> None:
    for key, (per_class, others) in CLASSIFIERS.items():
        if key in state and key in own and state[key].shape != own[key].shape:
            theirs, ours = (len(part[key]) // per_class - others for part in (state, own))
            raise ValueError(
                f'{path} tells {theirs} classes apart, the data set has {ours}: '
                'name the data set that it was trained on'
            )
