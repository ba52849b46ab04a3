"""Check before a run that the model and the loaders agree on the data sets."""

from typing import cast

from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mtp.engine.hooks.check_data import CheckDataHook
from mtp.engine.parallel import unwrap
from mtp.models.multitask_model import MultiTaskPretrainer
from mtp.registry import HOOKS


@HOOKS.register_module()
class CheckDatasetsHook(CheckDataHook):
    """``CheckDataHook`` that compares ``model.datasets`` with the data sets of a loader.

    Raises:
        ValueError: the model does not know a data set, or has another number of classes for it; the
            labels of one of its tasks are missing; only one of both has masks; or the batch size is
            not the sum of the sampler's images per data set.
    """

    def check(self, runner: Runner, loader: DataLoader) -> None:
        """Compare a loader's data sets and batch size with the model."""
        known = cast(MultiTaskPretrainer, unwrap(runner.model)).datasets
        metainfo = loader.dataset.metainfo  # type: ignore[attr-defined]  # mmengine's data sets
        for name, meta in metainfo['datasets'].items():
            if name not in known:
                raise ValueError(
                    f'the data set {name!r} of the loader is not among the data sets '
                    f'of the model, {list(known)}: add it to model.datasets'
                )
            expected = known[name]
            if len(meta['classes']) != expected['num_classes']:
                raise ValueError(
                    f'the data set {name!r} has {len(meta["classes"])} classes, but the model was '
                    f'built for {expected["num_classes"]}: set model.datasets.{name}.num_classes'
                )
            missing = set(expected['tasks']) - set(meta['tasks'])
            if missing:
                raise ValueError(
                    f'the data set {name!r} has no labels for {sorted(missing)}: leave them out of '
                    f'model.datasets.{name}.tasks'
                )
            masks, built_for = (each.get('masks', True) for each in (meta, expected))
            if 'instance' in expected['tasks'] and masks != built_for:
                raise ValueError(
                    f'masks={masks} of the data set {name!r}, but the model was built for '
                    f'masks={built_for}: set model.datasets.{name}.masks'
                )
        # Not loader.batch_size, which is that of an update.
        batch_size = loader.batch_sampler.batch_size  # type: ignore[union-attr]  # mmengine gives one
        per_batch = getattr(loader.sampler, 'images_per_batch', batch_size)
        if per_batch != batch_size:
            raise ValueError(
                f'batch_size is {batch_size}, but the sampler gives {per_batch} '
                'images per batch (the sum of images_per_dataset): set '
                f'train_dataloader.batch_size to {per_batch}'
            )
