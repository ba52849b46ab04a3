"""The data sets to finetune on: a module each, which holds all that is known of one.

To add a data set is to add its module; docs/data.md tells the rest.
"""

import importlib
import pkgutil

from mtp.data.datasets.base import TASKS, DataSet, Split

__all__ = ['DATASETS', 'MAKE', 'DataSet', 'Split', 'find']


def find() -> dict[str, DataSet]:
    """Find the data sets of this package's modules, by task, then by name.

    Returns:
        dict[str, DataSet]: name of the module -> its ``DATASET``.

    Raises:
        AttributeError: a module has no ``DATASET``.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != 'base']
    found = {name: importlib.import_module(f'{__name__}.{name}').DATASET for name in names}
    return dict(sorted(found.items(), key=lambda item: TASKS.index(item[1].task)))


DATASETS = find()
# Name -> function of a folder and a `seed`; for mtp.data.synthetic.
MAKE = {name: dataset.synthesise for name, dataset in DATASETS.items()}
