"""A check, before anything runs, that the model and the data speak of the same data sets."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mtp.engine.parallel import unwrap
from mtp.registry import HOOKS


@HOOKS.register_module()
class CheckDatasetsHook(Hook):
    """Compares ``model.datasets`` with the data sets of the loader that is about to be used.

    Raises:
        ValueError: a data set that the model does not know, another number of classes, labels
            missing for a task that the model trains or evaluates on it, or a batch size that is
            not the sum of the sampler's images per data set.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Check the training loader."""
        self._check(runner, runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation loader."""
        self._check(runner, runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test loader."""
        self._check(runner, runner.test_dataloader)

    def _check(self, runner: Runner, loader: DataLoader) -> None:
        model = unwrap(runner.model)
        for name, meta in loader.dataset.metainfo['datasets'].items():
            if name not in model.datasets:
                raise ValueError(
                    f'the data set {name!r} of the loader is not among the data sets '
                    f'of the model, {list(model.datasets)}: add it to model.datasets'
                )
            expected = model.datasets[name]
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
        batch_size = loader.batch_sampler.batch_size  # loader.batch_size is that of an update
        per_batch = getattr(loader.sampler, 'images_per_batch', batch_size)
        if per_batch != batch_size:
            raise ValueError(
                f'batch_size is {batch_size}, but the sampler gives {per_batch} '
                'images per batch (the sum of images_per_dataset): set '
                f'train_dataloader.batch_size to {per_batch}'
            )
