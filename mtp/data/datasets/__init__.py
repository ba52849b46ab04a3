"""Data sets to finetune on: one module each, with all that is known about the data set.

To add a data set, add its module; see docs/data.md.
"""

import importlib
import pkgutil

from mtp.data.datasets.base import TASKS, DataSet, Split

__all__ = ['DATASETS', 'MAKE', 'DataSet', 'Split', 'find']


def find() -> dict[str, DataSet]:
    """Find the data sets of this package's modules, sorted by task, then by name.

    Returns:
        dict[str, DataSet]: name of the module -> its ``DATASET``.

    Raises:
        AttributeError: a module has no ``DATASET``.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != 'base']
    found = {name: importlib.import_module(f'{__name__}.{name}').DATASET for name in names}
    return dict(sorted(found.items(), key=lambda item: TASKS.index(item[1].task)))


DATASETS = find()
# Name -> function of a folder and a `seed` that writes a synthetic copy; for mtp.data.synthetic.
MAKE = {name: dataset.synthesise for name, dataset in DATASETS.items()}
