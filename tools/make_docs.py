"""Write docs/model_zoo.md: ``python tools/make_model_zoo.py``."""
import argparse
from pathlib import Path

from mtp.data.datasets import DATASETS

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / 'docs' / 'model_zoo.md'
LOGGED = ('vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl')

HEAD = '''# Model zoo

Made by `python tools/make_model_zoo.py` from
[`configs/finetune/results.yaml`](../configs/finetune/results.yaml): change that file, not this one.

**None of these figures has been verified with this code.** They are those of the paper
([arXiv:2403.13430](https://arxiv.org/abs/2403.13430)) and of what was released with it; neither the
released checkpoints nor the full data sets were at hand. What has been checked: every config agrees
with the published recipe and has the parameters of the released model by name, shape and number
(where a list of them is at hand), every config trains and is evaluated on a small made-up copy of
its data set (`python tools/finetune_all.py --smoke`), and the metrics equal reference
implementations.

## How to run

`DATASET`, `MODEL` and `CONFIG` are in the tables below; `prepare.py --list` tells where each data
set comes from.

```bash
python tools/data/prepare.py DATASET DOWNLOADED data/DATASET      # multi-scale: see below
python tools/train.py CONFIG                                      # one GPU or CPU
torchrun --nproc-per-node 8 tools/train.py CONFIG --launcher pytorch
python tools/test.py CONFIG work_dirs/TASK/DATASET/MODEL/epoch_N.pth
python tools/reproduce.py DATASET MODEL --checkpoint RELEASED.pth --data data/DATASET
python tools/finetune_all.py                                      # all that lie in data/
```

`reproduce.py` evaluates a released finetuned checkpoint as it is, and prints measured, published
and difference. Where the figure is one **of the server**, the labels of the test split are not
public: give `test.py` also `--submission DIR`, and send in what is written there; `reproduce.py`
writes it below its work directory. A data set `<name>_ms` is prepared as `<name>` with
`--multi-scale`.

## Encoders to start from

A config's one variable is `model.backbone.init_cfg.checkpoint`: a name below, or the path of a
file.
'''


def page() -> str:
    """Return the whole page."""
    from mtp.models.weights.released import FOLDER, RELEASED
    from mtp.recipes import table

    lines = [HEAD, '| model | name | file |', '| --- | --- | --- |']
    lines += [f'| `{model}` | `{name}` | `{FOLDER / file}` |'
              for model, files in RELEASED.items() for name, file in files.items()]
    lines += ['', '## Published figures', '',
              'In percent. *Without MTP*: the same model, started from MAE (ViT) or ImageNet '
              '(InternImage). A figure with (?) is to be checked before it is quoted.', '',
              '| data set | figure | model | published | without MTP | config | verified here |',
              '| --- | --- | --- | ---: | ---: | --- | --- |']
    notes, logged = [], []
    for name, results in table.read_results().items():
        title = DATASETS[name.removesuffix('_ms')].title
        title += ', multi-scale' if name.endswith('_ms') else ''
        marks = ''
        for text in filter(None, (results.doubt, results.note)):
            notes.append(f'{len(notes) + 1}. {title}: {text.rstrip(".")}.')
            marks += f' [{len(notes)}]'
        configs = table.configs(name)
        for model in (model for model in RELEASED if model in configs):
            link = configs[model].relative_to(REPO).as_posix()
            published = _value(results.published, model) + ' (?)' * bool(results.doubt)
            lines.append(f'| {title}{marks} | {results.metric} | `{model}` | {published} | '
                         f'{_value(results.without_mtp, model)} | [`{link}`](../{link}) | no |')
        for key, of_models in results.logged.items():
            values = (_value(of_models, model) for model in LOGGED)
            logged.append(f'| {title} | `{key}` | {" | ".join(values)} |')
    lines += ['', *notes, '', 'Further figures, of the logs of the released checkpoints:', '',
              f'| data set | figure | {" | ".join(f"`{model}`" for model in LOGGED)} |',
              '| --- | --- | ---: | ---: | ---: |', *logged]
    return '\n'.join([*lines, ''])


def _value(of_models: dict[str, float], model: str) -> str:
    return f'{of_models[model]:.2f}' if model in of_models else '-'


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page())
    print(f'{PAGE} written')
