"""The command ``mtp``, which imports a subcommand's module when it is called."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DESCRIPTION = 'Multi-task pretraining of remote-sensing foundation models.'


@dataclass(frozen=True)
class Command:
    """Subcommand.

    Attributes:
        module: module whose ``main(arguments, prog)`` is called with the remaining arguments and
            the command so far.
        summary: its line in the help.
    """

    module: str
    summary: str


COMMANDS = {
    'train': Command('mtp.cli.train', 'train a model'),
    'predict': Command('mtp.cli.predict', 'predict on images, and on scenes of any size'),
    'test': Command('mtp.cli.test', 'evaluate a model'),
    'report': Command('mtp.cli.report', 'make a page of a training run'),
    'data': Command('mtp.cli.data', 'prepare, check and look at data'),
    'weights': Command('mtp.cli.weights', 'list, download and check released weights'),
    'export': Command('mtp.cli.export_checkpoint', 'write a checkpoint for other projects'),
    'info': Command('mtp.cli.installation', 'versions, devices, backends of the operators'),
}


def main(arguments: Sequence[str] | None = None, prog: str = 'mtp') -> None:
    """Run a subcommand.

    Args:
        arguments: command-line arguments; None for those of this process.
        prog: the command, for messages.
    """
    dispatch(COMMANDS, DESCRIPTION, arguments, prog)


def dispatch(
    commands: Mapping[str, Command], description: str, arguments: Sequence[str] | None, prog: str
) -> None:
    """Run the subcommand that the first argument names.

    Args:
        commands: name -> subcommand.
        description: what the help says of all of them.
        arguments: the subcommand's name and its arguments; None for those of this process.
        prog: the command so far.
    """
    width = max(map(len, commands))
    parser = argparse.ArgumentParser(
        prog,
        description=description,
        epilog='\n'.join(
            ['commands:', *(f'  {name:<{width}}  {of.summary}' for name, of in commands.items())]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'command', choices=commands, metavar='COMMAND', help='followed by --help for its options'
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    name = parser.parse_args(arguments[:1]).command
    importlib.import_module(commands[name].module).main(arguments[1:], f'{prog} {name}')
