"""Check before a run that data, config and head agree, and say what the readers left out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mtp.data.class_names import check_classes
from mtp.data.tally import Tally
from mtp.engine.console_log import FILE_ONLY
from mtp.engine.parallel import unwrap
from mtp.files import write_text
from mtp.registry import HOOKS

LEFT_OUT = 'left_out.txt'
SHOWN_NOTES = 3  # of a data set, on the console
FEW_STEPS = 100  # steps in which even a pretrained model learns next to nothing


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Hook that checks the data set of each loader before its first use.

    What the readers left out is listed in ``<work dir>/left_out.txt``. What they read otherwise
    than it stands is logged, as are a batch and a schedule that cannot learn anything.

    Raises:
        ValueError: a head has another number of classes than the data set.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._said: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Check the loaders of training and validation."""
        loaders = {'train': runner.train_dataloader}
        if runner.val_loop is not None:
            loaders['val'] = runner.val_dataloader
        self._begin(runner, loaders)
        _warn_of_few(runner)

    def before_val(self, runner: Runner) -> None:
        """Check the validation loader."""
        self._begin(runner, {'val': runner.val_dataloader})

    def before_test(self, runner: Runner) -> None:
        """Check the test loader."""
        self._begin(runner, {'test': runner.test_dataloader})

    def check(self, runner: Runner, loader: DataLoader) -> None:
        """Compare the classes of a data set with the model's heads."""
        classes = loader.dataset.metainfo.get('classes')  # type: ignore[attr-defined]  # mmengine's data sets
        if classes is None:
            return
        check_classes(classes)
        for name, module in unwrap(runner.model).named_modules():
            number = getattr(module, 'num_classes', None)
            if not isinstance(number, int) or name.endswith('rpn_head'):
                continue  # the RPN tells objects from background only
            if number != len(classes):
                raise ValueError(
                    f'the data have {len(classes)} classes ({_shown(classes)}), but '
                    f'model.{name} has num_classes = {number}: set '
                    f'model.{name}.num_classes to {len(classes)}, or correct `classes` of the '
                    'data sets'
                )

    def _begin(self, runner: Runner, loaders: dict[str, DataLoader]) -> None:
        new = {mode: loader for mode, loader in loaders.items() if mode not in self._said}
        for loader in new.values():
            self.check(runner, loader)
        self._said.update(new)
        tallies = {mode: tally_of(loader.dataset) for mode, loader in new.items()}
        for mode, tally in tallies.items():
            for number, text in enumerate(tally.notes):
                # the console stays short, the log file has all
                where = FILE_ONLY if number >= SHOWN_NOTES else {}
                runner.logger.info(f'{mode}: {text}', **where)
        lines = [f'{mode}: {line}\n' for mode, tally in tallies.items() for line in tally.lines()]
        if lines and is_main_process():
            path = Path(runner.work_dir) / LEFT_OUT
            write_text(path, ''.join(lines))
            runner.logger.warning(f'what was left out is listed in {path}')


def _warn_of_few(runner: Runner) -> None:
    """Warn of a schedule of a few steps, and of a batch that is larger than the data."""
    steps, batch = runner.max_iters, getattr(runner.train_dataloader, 'batch_size', None)
    images = len(runner.train_dataloader.dataset)
    if steps < FEW_STEPS:
        runner.logger.warning(
            f'{steps} steps in all are too few to learn from: train longer (max_epochs or '
            'max_iters of train_cfg), or take a smaller total_batch_size'
        )
    if batch is not None and batch > images:
        runner.logger.warning(
            f'a batch of {batch} images is larger than the data of {images}: take a smaller '
            'total_batch_size'
        )


def tally_of(dataset: Dataset) -> Tally:
    """Return the counts of a data set; those of its parts together, if it has any."""
    total = Tally()
    for part in _parts(dataset):
        tally = getattr(part, 'tally', None)
        total.add(tally or Tally(images=len(part)))  # type: ignore[arg-type]  # all have a length
    return total


def _parts(dataset: Dataset) -> Iterator[Dataset]:
    parts = getattr(dataset, 'datasets', None)
    if parts is None:
        yield dataset
        return
    for part in parts.values() if isinstance(parts, dict) else parts:
        yield from _parts(part)


def _shown(classes: Sequence[str]) -> str:
    return ', '.join(classes[:8]) + (', ...' if len(classes) > 8 else '')
