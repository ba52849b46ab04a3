"""Mistakes of users of the command line, each with its answer.

``tests/test_mistakes.py`` makes all of them. ``python -m tests.mistakes`` writes the list of the
answers into docs/mistakes.md.
"""

import contextlib
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

from mtp.cli import main
from tests.conftest import REPO
from tests.tools.toy import ToyModel

PAGE = REPO / 'docs' / 'mistakes.md'
BEGIN, END = '<!-- made by tests/mistakes.py: answers -->', '<!-- end -->'
TOY, DEMO = 'tests/tools/toy_config.py', 'pretrain/vit_tiny_rvsa_demo'
OWN = """from mmengine.config import read_base

with read_base():
    from tests.tools.toy_config import *
"""


class TooLarge(BaseModel):
    """A model that finds no memory."""

    def __init__(self, backbone: dict) -> None:
        raise torch.OutOfMemoryError(
            'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9 GiB'
        )

    def forward(self) -> None:
        """Stand for the abstract method."""


@dataclass(frozen=True)
class Mistake:
    """Mistake in a command.

    Attributes:
        command: the command after ``mtp``; FOLDER is an empty folder.
        config: lines of ``FOLDER/own.py`` after the import of its base.
        code: exit code.
    """

    command: str
    config: str = ''
    code: int = 1


def own(config: str) -> Mistake:
    """Return a mistake in a config file."""
    return Mistake('train FOLDER/own.py', config)


MISTAKES = {
    'a subcommand that does not exist': Mistake('trian', code=2),
    'an option that does not exist': Mistake(f'train {TOY} --complie on', code=2),
    'a value that an option does not take': Mistake(f'train {TOY} --amp bf16', code=2),
    '`--cfg-options` without a value': Mistake(f'train {TOY} --cfg-options work_dir', code=2),
    'a device that does not exist': Mistake(f'train {TOY} --device gpu', code=2),
    'a GPU for one process, with several': Mistake(
        f'train {TOY} --launcher pytorch --device cuda:0', code=2
    ),
    'a GPU where there is none': Mistake(f'train {TOY} --device cuda'),
    'a GPU beyond those that there are': Mistake(f'test {TOY} untrained --device cuda:1'),
    'a config that does not exist': Mistake('train pretrain/vit_b_rvsa_samr'),
    'a checkpoint that does not exist': Mistake(f'test {TOY} FOLDER/iter_9.pth'),
    'nothing to resume': Mistake(f'train {TOY} --resume'),
    'a misspelt key in `--cfg-options`': Mistake(
        f'train {TOY} --cfg-options optim_wrapper.optimizer.weight_decoy=0'
    ),
    'a class that does not exist, in `--cfg-options`': Mistake(
        f'train {TOY} --cfg-options model.type=tests.tools.toy.ToyModl'
    ),
    'a class that does not exist, in a config': own(
        'from tests.tools.toy import ToyDatset\ntrain_dataloader.dataset.type = ToyDatset'
    ),
    'a misspelt name in a config': own('defualt_hooks = dict(timer=None)'),
    'a misspelt key in a config': own('train_dataloader.sampler.shufle = False'),
    'a misspelt key of a loader': own('train_dataloader.num_worker = 2'),
    'a value that a class refuses': own('train_dataloader.batch_size = 0'),
    'a data root that does not exist': own(
        'from mtp.data import SAMRSDataset\n'
        "train_dataloader.dataset = dict(type=SAMRSDataset, subset='sota', data_root='data/sota')"
    ),
    'a backbone that does not exist': Mistake(
        f'train {DEMO} --cfg-options model.backbone.name=vit_tiny'
    ),
    'a wrong argument of a backbone': Mistake(
        f'train {DEMO} --cfg-options model.backbone.windw_size=7'
    ),
    'images that cannot be shared': Mistake(
        f'train {DEMO} --cfg-options total_batch_size=7'
    ),
    'a batch that does not fit into memory': Mistake(
        f'train {TOY} --cfg-options model.type=tests.mistakes.TooLarge'
    ),
    'an encoder in place of a checkpoint': Mistake(f'test {TOY} FOLDER/encoder.pth'),
}  # fmt: skip


def make(mistake: Mistake, folder: Path) -> tuple[object, str]:
    """Make a mistake in this process; return the exit code and what is said on stderr.

    The folder's path is FOLDER there.
    """
    DefaultScope._instance_dict.clear()
    (folder / 'own.py').write_text(OWN + mistake.config)
    torch.save(
        {'state_dict': ToyModel({'dropout': 0}).backbone.state_dict()}, folder / 'encoder.pth'
    )
    arguments = mistake.command.replace('FOLDER', str(folder)).split()
    if arguments[0] in ('train', 'test') and mistake.code == 1:
        arguments[1:1] = ['--work-dir', str(folder / 'run')]
        arguments += ['--cfg-options', f'experiment_name={folder}', 'visualizer.vis_backends=[]']
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            main.main(arguments)
        code: object = 0
    except SystemExit as stop:
        code = stop.code
    text = errors.getvalue()
    if isinstance(code, str):  # which Python prints before it exits
        code, text = 1, f'{text}{code}\n'
    return code, re.sub(rf'{re.escape(str(folder))}', 'FOLDER', text).replace(f'{REPO}/', '')


def answer(text: str) -> str:
    """Return what is said without argparse's usage."""
    return text[text.index('error: ') :] if text.startswith('usage: ') else text


def table() -> str:
    """Return the list for the docs."""
    lines = ['| mistake | command | answer | code |', '| --- | --- | --- | --- |']
    for name, mistake in MISTAKES.items():
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, *make(mistake, Path(folder))))
    return '\n'.join(lines)


def row(name: str, code: object, text: str) -> str:
    """Return the row of a mistake."""
    mistake = MISTAKES[name]
    if mistake.config:
        name += ': `' + '`, `'.join(mistake.config.splitlines()) + '`'
    said = answer(text).strip().replace('|', '\\|').replace('`', '').replace('\n', '`<br>`')
    return f'| {name} | `mtp {mistake.command}` | `{said}` | {code} |'


def filled(page: str) -> str:
    """Return the page of the docs with the list of today."""
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f'{page[:begin]}\n\n{table()}\n\n{page[end:]}'


if __name__ == '__main__':
    os.chdir(REPO)
    PAGE.write_text(filled(PAGE.read_text()))
