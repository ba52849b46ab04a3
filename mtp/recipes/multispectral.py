"""Recipes for images of other than 8-bit RGB: their transforms, checked and adapted."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config

from mtp.files import UnusableFileError
from mtp.recipes.table import nodes
from mtp.registry import short_name

RGB = 3
MEAN = (123.675, 116.28, 103.53)  # default of mtp's own data preprocessors
COLOUR = ('PhotoMetricDistortion', 'DistortPair', 'DrawDistortion', 'ColorJitter')
# Transforms that give 8-bit RGB only -> remedy.
RGB_ONLY = {
    'LoadImage': 'dict(type=LoadBands, bands=[...])',
    'LoadImageFromFile': 'dict(type=LoadBands, bands=[...])',
    'LoadPair': 'dict(type=LoadPair, image=dict(type=LoadBands, bands=[...]))',
}
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def adapt(cfg: Config) -> list[str]:
    """Fit the pipelines of a config to the bands that it loads; a config of RGB stays as it is.

    For other than three bands of 8 bits, colour augmentations are left out, and transforms of
    mmpretrain that take RGB alone are replaced. :class:`mtp.data.LoadBands` fills pixels without
    data with the mean of ``model.data_preprocessor``; pictures show its first three bands.

    Args:
        cfg: config of any task, changed in place.

    Returns:
        list: lines for the log, saying what was left out.

    Raises:
        UnusableFileError: the numbers of bands of the loaders, of ``model.backbone.in_chans`` and
            of the mean and deviation differ, or pretraining would get other than 8-bit RGB.
    """
    model = cfg.get('model', {})
    bands = model.get('backbone', {}).get('in_chans', RGB)
    loads = {name: list(_loads(cfg[name])) for name in LOADERS if cfg.get(name)}
    chosen = [load for of_loader in loads.values() for load in of_loader if 'bands' in load]
    if not chosen and bands == RGB:
        return []
    eight_bits = all(_is_eight_bits(load) for load in chosen)
    if _name(model) == 'MultiTaskPretrainer' and not (bands == RGB and eight_bits):
        raise UnusableFileError(
            'pretraining, its crops and its packed shards take three bands of 8 bits: choose three '
            "bands and stretch them (LoadBands bands=[...], stretch='p2,p98', or mtp data import "
            '--stretch), or finetune'
        )
    for name, of_loader in loads.items():
        _check_loader(name, of_loader, bands)
    mean, std = _normalisation(model, bands)
    for load in chosen:
        if load.get('mean') is None:
            load['mean'] = mean
    hook = cfg.get('default_hooks', {}).get('visualization', {})
    if _name(hook) == 'DrawPredictionsHook' and hook.get('bands') is None:
        hook['bands'] = list(chosen[-1]['bands'])[:RGB]  # of the test, the last of the loaders
    if bands == RGB and eight_bits:
        return []
    fill = (mean[::-1], std[::-1]) if bands == RGB else (mean, std)
    left_out: dict[str, None] = {}
    for name in loads:
        for node in nodes(cfg[name]):
            if 'pipeline' in node:
                _adapt(node['pipeline'], fill, left_out)
    if not left_out:
        return []
    kind = f'{bands} bands' if bands != RGB else 'three bands of more than 8 bits'
    return [f'Images of {kind}: augmentations of colour are left out: {", ".join(left_out)}']


def _loads(loader: dict) -> Iterator[dict]:
    """Yield the transforms of a loader's pipelines that load images."""
    for node in nodes(loader):
        name = _name(node)
        if name == 'LoadBands' or (name in RGB_ONLY and not node.get('image')):
            yield node


def _check_loader(name: str, loads: Sequence[dict], bands: int) -> None:
    for load in loads:
        if 'bands' not in load:
            if bands != RGB:
                kind = _name(load)
                raise UnusableFileError(
                    f'model.backbone.in_chans is {bands}, but {name} loads 8-bit RGB by {kind}: '
                    f'give {RGB_ONLY[kind]} in its place'
                )
        elif len(load['bands']) != bands:
            raise UnusableFileError(
                f'model.backbone.in_chans is {bands}, but {name} loads '
                f'{len(load["bands"])} bands, {list(load["bands"])}: give both the same number'
            )


def _is_eight_bits(load: dict) -> bool:
    return load.get('dtype', 'uint8') == 'uint8' or load.get('stretch') is not None


def _normalisation(model: dict, bands: int) -> tuple[list[float], list[float]]:
    """Return the mean and the deviation of each band, of the model's data preprocessor."""
    given = model.get('data_preprocessor', {})
    mean, std = list(given.get('mean', MEAN)), list(given.get('std', MEAN))
    if len(mean) != bands or len(std) != bands:
        raise UnusableFileError(
            f'model.backbone.in_chans is {bands}, but model.data_preprocessor has {len(mean)} '
            f'values of mean and {len(std)} of std: give one for each band (mtp data import '
            'measures them)'
        )
    return mean, std


def _adapt(steps: Any, fill: tuple[list[float], list[float]], left_out: dict[str, None]) -> None:
    """Adapt transforms in place; add those left out to ``left_out``.

    New dicts would hold classes in place of their names, which a dumped config cannot.
    """
    if isinstance(steps, list):
        for step in reversed(steps):
            if isinstance(step, dict) and _name(step) in COLOUR:
                left_out[_name(step)] = None
                steps.remove(step)
            else:
                _adapt(step, fill, left_out)
    elif isinstance(steps, dict):
        name = _name(steps)
        if name == 'RandAugment':
            left_out['operations of RandAugment that move nothing'] = None
            steps.update(type='mtp.BandRandAugment', fill=fill[0])
        elif name == 'RandomErasing':
            steps.update(type='mtp.BandErasing', fill_color=fill[0], fill_std=fill[1])
        elif name in ('RandomResizedCrop', 'ResizeEdge') and steps.get('backend') == 'pillow':
            steps['type'] = {'ResizeEdge': 'mtp.BandResizeEdge'}.get(name, 'mtp.BandResizedCrop')
        for key in ('transforms', 'transform'):
            _adapt(steps.get(key), fill, left_out)


def _name(node: dict) -> str:
    return short_name(node.get('type', ''))
