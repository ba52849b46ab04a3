"""The finetuning recipes as a table: config, prepared data and published figures of each."""

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
    """The published figures of a data set, in percent; see ``configs/finetune/results.yaml``.

    Attributes:
        metric: what the figure is.
        key: its name among our metrics; None where the benchmark's server computes it.
        fraction: whether that name gives 0 to 1.
        published: model -> figure.
        without_mtp: model, started from MAE or ImageNet -> figure.
        logged: name among our metrics -> model -> figure of a released log.
        doubt: why not to quote ``published``.
        note: what else one has to know.
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
        """One of our metrics in percent."""
        if not metrics:  # what mmdet's CocoMetric gives where nothing was detected
            return 0.0
        return metrics[key] * (100 if self.fraction else 1)


def read_results() -> dict[str, Results]:
    """Data set -> its published figures, in the order of the file."""
    return {
        name: Results(**entry) for name, entry in mmengine.load(CONFIGS / 'results.yaml').items()
    }


def dataset_of(recipe: str) -> tuple[str, bool]:
    """Return the data set of a recipe, and whether it is cut at several scales.

    A recipe is called as its data set, with ``_ms`` behind it for several scales.
    """
    name = recipe.removesuffix(MULTI_SCALE)
    return (recipe, False) if recipe in DATASETS else (name, name != recipe)


def title(recipe: str) -> str:
    """Return what tables call the data of a recipe."""
    name, multi_scale = dataset_of(recipe)
    return DATASETS[name].title + ', multi-scale' * multi_scale


def configs(dataset: str) -> dict[str, Path]:
    """Model -> config of a data set.

    Raises:
        ValueError: unknown data set.
    """
    known = list(mmengine.load(CONFIGS / 'results.yaml'))
    if dataset not in known:
        raise ValueError(f'no data set is called {dataset!r}. There are: {", ".join(known)}')
    return {path.stem: path for path in sorted(CONFIGS.glob(f'*/{dataset}/*.py'))}


def config_of(dataset: str, model: str) -> Path:
    """The config of a data set and model.

    Raises:
        ValueError: unknown data set, or no such model for it.
    """
    of_model = configs(dataset)
    if model not in of_model:
        raise ValueError(
            f'no config of {dataset} is of a model {model!r}. There are: ' + ', '.join(of_model)
        )
    return of_model[model]


def set_data_root(cfg: Config, folder: str | Path) -> None:
    """Read a config's data set, wherever paths of it are given, from another folder."""
    old = cfg.test_dataloader.dataset.data_root
    for node in nodes(cfg._cfg_dict):
        for key, value in node.items():
            if isinstance(value, str) and (value == old or value.startswith(f'{old}/')):
                node[key] = str(folder) + value.removeprefix(old)


def nodes(tree: Any) -> Iterator[dict]:
    """Every dict within a config, each once."""
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
