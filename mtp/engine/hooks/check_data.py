"""Check before a run that data, config and head agree, and say what the readers took."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mtp.data.class_names import check_classes
from mtp.data.tally import Tally
from mtp.engine.parallel import unwrap
from mtp.files import write_text
from mtp.registry import HOOKS

LEFT_OUT = 'left_out.txt'


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Hook that checks the data set of each loader before its first use, and logs its counts.

    What the readers left out is listed in ``<work dir>/left_out.txt``.

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
            runner.logger.info(f'{mode}: {tally.summary()}')
            for text in tally.notes:
                runner.logger.info(f'{mode}: {text}')
        lines = [f'{mode}: {line}\n' for mode, tally in tallies.items() for line in tally.lines()]
        if lines and is_main_process():
            path = Path(runner.work_dir) / LEFT_OUT
            write_text(path, ''.join(lines))
            runner.logger.warning(f'what was left out is listed in {path}')


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
