"""Table of the finetuning recipes: config, prepared data and published figures of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config

from mtp import resources
from mtp.data.datasets import DATASETS

CONFIGS = resources.configs() / 'finetune'
MULTI_SCALE = '_ms'


@dataclass(frozen=True)
class Results:
    """Published figures of a data set, in percent; see ``configs/finetune/results.yaml``.

    Attributes:
        metric: title of the figure.
        key: name of the figure among mtp's metrics; None if the benchmark's server computes it.
        fraction: True if mtp's metric is 0 to 1 instead of a percentage.
        published: model -> published figure.
        without_mtp: model -> published figure of a start from MAE or ImageNet weights.
        logged: name of a metric of mtp -> model -> figure in a released log.
        doubt: reason not to quote ``published``.
        note: further remarks.
    """

    metric: str
    key: str | None = None
    fraction: bool = False
    published: dict[str, float] = field(default_factory=dict)
    without_mtp: dict[str, float] = field(default_factory=dict)
    logged: dict[str, dict[str, float]] = field(default_factory=dict)
    doubt: str = ''
    note: str = ''

    def percent(self, metrics: dict[str, float], key: str) -> float:
        """Return one of mtp's metrics in percent."""
        return metrics[key] * (100 if self.fraction else 1)


def read_results() -> dict[str, Results]:
    """Return data set -> published figures, in the order of the file."""
    return {
        name: Results(**entry) for name, entry in mmengine.load(CONFIGS / 'results.yaml').items()
    }


def dataset_of(recipe: str) -> tuple[str, bool]:
    """Return the data set of a recipe, and whether its tiles are cut at several scales.

    A recipe has the name of its data set, followed by ``_ms`` for several scales.
    """
    name = recipe.removesuffix(MULTI_SCALE)
    return (recipe, False) if recipe in DATASETS else (name, name != recipe)


def title(recipe: str) -> str:
    """Return the title of a recipe's data in tables."""
    name, multi_scale = dataset_of(recipe)
    return DATASETS[name].title + ', multi-scale' * multi_scale


def configs(dataset: str) -> dict[str, Path]:
    """Return model -> config of a data set.

    Raises:
        ValueError: unknown data set.
    """
    known = list(mmengine.load(CONFIGS / 'results.yaml'))
    if dataset not in known:
        raise ValueError(f'no data set is called {dataset!r}. There are: {", ".join(known)}')
    return {path.stem: path for path in sorted(CONFIGS.glob(f'*/{dataset}/*.py'))}


def config_of(dataset: str, model: str) -> Path:
    """Return the config of a data set and model.

    Raises:
        ValueError: the data set is unknown, or has no config of this model.
    """
    of_model = configs(dataset)
    if model not in of_model:
        raise ValueError(
            f'no config of {dataset} is of a model {model!r}. There are: ' + ', '.join(of_model)
        )
    return of_model[model]


def set_data_root(cfg: Config, folder: str | Path) -> None:
    """Replace the folder of a config's data set in all its paths."""
    old = cfg.test_dataloader.dataset.data_root
    for node in nodes(cfg._cfg_dict):
        for key, value in node.items():
            if isinstance(value, str) and (value == old or value.startswith(f'{old}/')):
                node[key] = str(folder) + value.removeprefix(old)


def nodes(tree: Any) -> Iterator[dict]:
    """Yield every dict within a config once."""
    seen, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            yield node
            todo += node.values()
        elif isinstance(node, list | tuple):
            todo += node
