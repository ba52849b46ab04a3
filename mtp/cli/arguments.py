"""Arguments of the tools. Without torch, so that ``--help`` and errors appear immediately."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtp.cli.errors import add_debug
from mtp.machine import LAUNCHERS


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        config: config file.
        work_dir: folder for logs, checkpoints and figures; None for the folder named after the
            config.
        launcher: ``'none'``, or a key of :data:`mtp.machine.LAUNCHERS`.
        cfg_options: dotted keys of the config -> their new values.
    """

    config: str | Path
    work_dir: Path | None = None
    launcher: str = 'none'
    cfg_options: Mapping[str, Any] = field(default_factory=dict)


class ConfigOptions(argparse.Action):
    """mmengine's ``DictAction``, imported only if the option is given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is not KEY=VALUE')
        DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def count(text: str) -> int:
    """Parse a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 1 on')
    return int(text)


def add_run_arguments(parser: argparse.ArgumentParser, needs_config: bool = True) -> None:
    """Add the arguments that training and testing share.

    Args:
        parser: parser to add them to.
        needs_config: whether the config must be given.
    """
    parser.add_argument(
        'config',
        nargs=None if needs_config else '?',
        help='a config file, e.g. configs/pretrain/vit_b_rvsa_samrs.py',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='folder for logs, checkpoints and figures; '
        'default: work_dirs/<path of the config below configs/pretrain or configs/finetune>',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', *LAUNCHERS),
        default='none',
        help='pytorch: started by torchrun; slurm: started by srun',
    )
    add_device(parser)
    add_config_options(parser)
    add_debug(parser)


def parse_run_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the arguments of :func:`add_run_arguments` and others, and check that they agree."""
    args = parser.parse_args(arguments)
    if args.launcher != 'none' and args.device.startswith('cuda:'):
        parser.error('--launcher gives each process a GPU of its own: leave out --device cuda:N')
    return args


def run_options(args: argparse.Namespace) -> RunOptions:
    """Return the options from parsed arguments of :func:`add_run_arguments`."""
    return RunOptions(args.config, args.work_dir, args.launcher, args.cfg_options)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, for :func:`mtp.cli.own_gpu.choose_device`."""
    parser.add_argument(
        '--device',
        type=_device,
        default='auto',
        metavar='auto|cpu|cuda|cuda:N',
        help='auto: a GPU where there is one; cuda:N: the N-th visible GPU, from 0',
    )


def _device(text: str) -> str:
    if not re.fullmatch(r'auto|cpu|cuda(:\d+)?', text):
        raise argparse.ArgumentTypeError(f'{text!r} is none of auto, cpu, cuda and cuda:N')
    return text


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` and ``--class-column``, which say how labels in any form are read."""
    from mtp.data.own.recognition import FORMS

    parser.add_argument(
        '--format', choices=FORMS, help='form of the labels, where files have two meanings'
    )
    parser.add_argument(
        '--class-column',
        metavar='NAME',
        help='column of the class in vector labels; - for one class, named after the file (the '
        'only column of text with few values)',
    )


def add_bands(parser: argparse.ArgumentParser) -> None:
    """Add ``--bands`` and ``--stretch``, which say what is taken of images of other than RGB."""
    parser.add_argument(
        '--bands',
        type=_bands,
        default=(),
        metavar='4,3,2',
        help='bands to take of images of other than 8-bit RGB, from 1 on (all)',
    )
    parser.add_argument(
        '--stretch',
        metavar='MIN,MAX|p2,p98',
        help='make 8 bits, for the released weights: between two values, or between two '
        'percentiles of each band and scene (keep the values)',
    )


def _bands(text: str) -> tuple[int, ...]:
    try:
        bands = tuple(int(part) for part in text.split(','))
    except ValueError:
        bands = ()
    if not bands or min(bands) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} are no bands: give numbers from 1 on, as 4,3,2')
    return bands


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which changes the config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, e.g. train_dataloader.num_workers=8 param_scheduler.0.T_max=1000',
    )
