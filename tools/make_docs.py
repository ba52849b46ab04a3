"""Write the docs of data sets, recipes and modules: ``python tools/make_docs.py``.

The model zoo and the page of modules are generated as a whole. Other pages have generated tables
between ``<!-- made by ... -->`` and ``<!-- end -->``. Sources are mtp/data/datasets,
configs/finetune and its results.yaml, and the docstrings of the modules.
"""

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from mtp.data.datasets import DATASETS, TASKS

REPO = Path(__file__).resolve().parents[1]
MODEL_ZOO = 'docs/model_zoo.md'
MODULES = 'docs/modules.md'
PAGES = ('README.md', 'docs/data.md', 'docs/finetuning.md')  # with tables
MADE = re.compile(
    r'(?P<begin><!-- made by \S+: (?P<table>\w+) -->).*?(?P<end><!-- end -->)', re.DOTALL
)
LOGGED = ('vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl')
MODELS = {  # task -> models of its recipes
    'classification': 'linear classifier',
    'horizontal_detection': 'RetinaNet, Faster R-CNN',
    'rotated_detection': 'Oriented R-CNN',
    'segmentation': 'UPerNet',
    'change_detection': 'Siamese encoder, UNet decoder',
}

HEAD = """# Model zoo

Made by `python tools/make_docs.py` from
[`configs/finetune/results.yaml`](../configs/finetune/results.yaml): change that file, not this one.

**None of these figures has been verified with this code.** They come from the paper
([arXiv:2403.13430](https://arxiv.org/abs/2403.13430)) and its release; neither the released
checkpoints nor the full data sets were at hand. What has been checked:

- every config agrees with the published recipe, and has the parameters of the released model by
  name, shape and number (where a list of them is at hand);
- every config trains and is evaluated on a small synthetic copy of its data set
  (`python tools/finetune_all.py --smoke`);
- the metrics equal reference implementations.

## How to run

`DATASET`, `MODEL` and `CONFIG` are in the tables below; `prepare.py --list` prints where to get
each data set.

```bash
python tools/data/prepare.py DATASET DOWNLOADED data/DATASET      # multi-scale: see below
python tools/train.py CONFIG                                      # one GPU or CPU
torchrun --nproc-per-node 8 tools/train.py CONFIG --launcher pytorch --resume auto
python tools/test.py CONFIG work_dirs/TASK/DATASET/MODEL/epoch_N.pth
python tools/reproduce.py DATASET MODEL --checkpoint RELEASED.pth --data data/DATASET
python tools/finetune_all.py                                      # all data sets in data/
```

`reproduce.py` evaluates a released finetuned checkpoint as it is, and prints the measured figure,
the published one and their difference. Where the figure is one **of the server**, the labels of the
test split are not public: add `--submission DIR` to `test.py`, and submit the file written there;
`reproduce.py` writes it below its work directory. A data set `<name>_ms` is prepared as `<name>`
with `--multi-scale`.

## Encoders to start from

The start of a config is one key, `model.backbone.init_cfg.checkpoint`: a name below, one of
[all weights](#weights-by-name), `hf://owner/name` or the path of a file.
"""
WEIGHTS = """
## Weights by name

```bash
mtp weights list                        # all names; `mtp weights list levir` those with "levir"
mtp weights download mae_vit_b          # into MTP_HOME, or ~/.cache/mtp
mtp weights check PATH                  # its SHA-256, and its keys and shapes beside recorded ones
```

What is empty has not been seen: no hash, size or address is guessed. Most files lie in shared
folders that only a browser opens; `download` prints the page, the folders, the file's name and
where to put it: in `checkpoints/`, or in `MTP_HOME` for all projects. A file of unknown name takes
the weights' name. Wherever weights are asked for, these work alike: a name, a file, a folder with
one file of weights (`model.safetensors` before others), `hf://owner/name` and
`hf://owner/name/FILE` (of `.safetensors` or `.pth`, kept in `MTP_HOME/hub`). None of them runs code
that the file holds.

The licence is that of the repository with the page. Figures are the page's; those of DIOR are from
the released logs and differ from the paper. The paper's own ViTs started from MAE on Million-AID
(`mae_millionaid_...`), not from the ImageNet MAE of `mae`. All but these two are normalised with
mean {mean} and deviation {std} (RGB, 0 to 255).
The keys and shapes of `check` are in `mtp/models/weights/layouts.json`, recorded from mtp's models;
of MAE, of ImageNet's classifier and of whole multi-task models they are the encoder's alone.
"""


def pages(repo: Path) -> dict[Path, str]:
    """Return the text of each page that is generated, as a whole or in its tables.

    Args:
        repo: root of the repository.
    """
    texts = {repo / name: MADE.sub(_fill, (repo / name).read_text()) for name in PAGES}
    return {
        **texts,
        repo / MODEL_ZOO: model_zoo(),
        repo / MODULES: '\n'.join(modules(repo / 'mtp')),
    }


def _fill(match: re.Match) -> str:
    return '\n'.join([match['begin'], '', *TABLES[match['table']](), '', match['end']])


def recipes_of_tasks() -> dict[str, list[str]]:
    """Return task -> its recipes, in the order of results.yaml."""
    from mtp.recipes import table

    recipes = {task: [] for task in TASKS}
    for name in table.read_results():
        recipes[DATASETS[table.dataset_of(name)[0]].task].append(name)
    return recipes


def datasets_of_tasks() -> dict[str, list[str]]:
    """Return task -> its data sets, in the order of results.yaml."""
    return {
        task: [name for name in names if name in DATASETS]
        for task, names in recipes_of_tasks().items()
    }


def tasks() -> Iterator[str]:
    """Yield a table of the tasks with their models and data sets."""
    yield '| `configs/finetune/` | model | data sets |'
    yield '| --- | --- | --- |'
    for task, names in datasets_of_tasks().items():
        titles = [
            DATASETS[name].title + ' (also multi-scale)' * DATASETS[name].multi_scale
            for name in names
        ]
        yield f'| `{task}` | {MODELS[task]} | {", ".join(titles)} |'


def recipes() -> Iterator[str]:
    """Yield a table of the recipes with the name of their figure."""
    from mmengine.config import Config

    from mtp.recipes import table

    yield '| task | data set | last checkpoint | figure | its name in `metrics.json` |'
    yield '| --- | --- | --- | --- | --- |'
    results = table.read_results()
    for task, names in recipes_of_tasks().items():
        for name in names:
            train = Config.fromfile(next(iter(table.configs(name).values()))).train_cfg
            last = (
                f'epoch_{train.max_epochs}' if 'max_epochs' in train else f'iter_{train.max_iters}'
            )
            metric, key = results[name].metric, results[name].key
            key = f'`{key}`' + ' (0 to 1)' * results[name].fraction if key else '-'
            yield f'| {_once(task, names, name)} | `{name}` | `{last}` | {metric} | {key} |'


def datasets() -> Iterator[str]:
    """Yield a table of the data sets with their size and licence."""
    yield '| task | `DATASET` | data set | images | licence |'
    yield '| --- | --- | --- | --- | --- |'
    for task, names in datasets_of_tasks().items():
        for name in names:
            dataset = DATASETS[name]
            yield (
                f'| {_once(task, names, name)} | `{name}` | {dataset.title} | {dataset.size} | '
                f'{dataset.licence} |'
            )


def prepared() -> Iterator[str]:
    """Yield a table of the preparations."""
    yield '| `DATASET` | preparation |'
    yield '| --- | --- |'
    for name in chain.from_iterable(datasets_of_tasks().values()):
        text = ' '.join(inspect.getdoc(DATASETS[name].prepare).split()).replace('``', '`')
        yield f'| `{name}` | {text} |'


def citations() -> Iterator[str]:
    """Yield a list of the papers to cite."""
    for name in chain.from_iterable(datasets_of_tasks().values()):
        yield f'- {DATASETS[name].title}: {DATASETS[name].citation}.'


def modules(root: Path) -> Iterator[str]:
    """Yield the page of all modules with the first line of their docstrings.

    Args:
        root: folder of the package ``mtp``.
    """
    yield '# Modules\n'
    yield (
        'Every module of `mtp/` with the first line of its docstring. Made by\n'
        '`python tools/make_docs.py`: change the docstrings, not this page. Ten files to\n'
        'read first: [architecture.md](architecture.md).\n'
    )
    for package in sorted(path.parent for path in root.rglob('__init__.py')):
        yield f'## `{package.relative_to(root.parent).as_posix()}`\n'
        yield f'{_summary(package / "__init__.py")}\n'
        others = sorted(path for path in package.glob('*.py') if path.name != '__init__.py')
        if others:
            yield '| module | what it holds |'
            yield '| --- | --- |'
            yield from (f'| `{path.name}` | {_summary(path)} |' for path in others)
            yield ''


def _summary(path: Path) -> str:
    line = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0].replace('``', '`')
    return re.sub(r':\w+:`(.+?)`', r'`\1`', line).replace('|', '\\|')


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    function.__name__: function for function in (tasks, recipes, datasets, prepared, citations)
}


def _once(task: str, names: list[str], name: str) -> str:
    """Return the task's name for the row of its first data set, else an empty string."""
    return f'`{task}`' if name == names[0] else ''


def model_zoo() -> str:
    """Return the page of all recipes with their published figures."""
    from mtp.models.weights.released import FOLDER, RELEASED
    from mtp.recipes import table

    lines = [HEAD, '| model | name | file |', '| --- | --- | --- |']
    lines += [
        f'| `{model}` | `{name}` | `{FOLDER / file}` |'
        for model, files in RELEASED.items()
        for name, file in files.items()
    ]
    lines += weights()
    lines += [
        '',
        '## Published figures',
        '',
        'In percent. *Without MTP*: the same model, started from MAE (ViT) or ImageNet '
        '(InternImage). Check a figure marked (?) before you quote it.',
        '',
        '| data set | figure | model | published | without MTP | config | verified here |',
        '| --- | --- | --- | ---: | ---: | --- | --- |',
    ]
    notes, logged = [], []
    for name, results in table.read_results().items():
        title = table.title(name)
        marks = ''
        for text in filter(None, (results.doubt, results.note)):
            notes.append(f'{len(notes) + 1}. {title}: {text.rstrip(".")}.')
            marks += f' [{len(notes)}]'
        configs = table.configs(name)
        for model in (model for model in RELEASED if model in configs):
            link = configs[model].relative_to(table.CONFIGS.parents[1]).as_posix()
            published = _value(results.published, model) + ' (?)' * bool(results.doubt)
            lines.append(
                f'| {title}{marks} | {results.metric} | `{model}` | {published} | '
                f'{_value(results.without_mtp, model)} | [`{link}`](../{link}) | no |'
            )
        for key, of_models in results.logged.items():
            values = (_value(of_models, model) for model in LOGGED)
            logged.append(f'| {title} | `{key}` | {" | ".join(values)} |')
    lines += [
        '',
        *notes,
        '',
        'Further figures, from the logs of the released checkpoints:',
        '',
        f'| data set | figure | {" | ".join(f"`{model}`" for model in LOGGED)} |',
        '| --- | --- | ---: | ---: | ---: |',
        *logged,
    ]
    return '\n'.join([*lines, ''])


def weights() -> Iterator[str]:
    """Yield the section of all weights that have a name."""
    from mtp.models.weights.catalogue import CATALOGUE, MEAN, STD

    yield WEIGHTS.format(mean=', '.join(map(str, MEAN)), std=', '.join(map(str, STD)))
    yield '| name | pixels | figure | page | paper | licence | download | file | SHA-256, bytes |'
    yield '| --- | ---: | --- | --- | --- | --- | --- | --- | --- |'
    for name, each in CATALOGUE.items():
        paper = each.paper and f'[{each.paper}](https://arxiv.org/abs/{each.paper[6:]})'
        links = [f'[file]({each.url})'] if each.url else [f'[folder]({x})' for x in each.shares]
        hashes = (each.sha256, each.md5_start and f'MD5 {each.md5_start}...', each.size)
        cells = (
            f'`{name}`',
            each.input_size,
            each.figure,
            f'[{each.page.rpartition("/")[2]}]({each.page})',
            paper,
            each.licence,
            ', '.join(links),
            each.file and f'`{each.file}`',
            ', '.join(str(value) for value in hashes if value),
        )
        yield '| ' + ' | '.join(str(cell or '') for cell in cells) + ' |'


def _value(of_models: dict[str, float], model: str) -> str:
    return f'{of_models[model]:.2f}' if model in of_models else '-'


if __name__ == '__main__':
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path, text in pages(REPO).items():
        path.write_text(text)
        print(f'{path} written')
