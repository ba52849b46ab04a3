"""``mtp weights``: a module for each subcommand."""

from collections.abc import Sequence

from mtp.cli.main import Command, dispatch

DESCRIPTION = 'Released weights by name.'
COMMANDS = {
    name: Command(f'{__name__}.{module}', summary)
    for name, module, summary in (
        ('list', 'list_weights', 'names, pages, licences and published figures'),
        ('download', 'download_weights', 'get a file, or learn where to get it'),
        ('check', 'check_weights', 'hash of a file, and whether its keys and shapes are complete'),
    )
}


def main(arguments: Sequence[str] | None = None, prog: str = 'mtp weights') -> None:
    """Run a subcommand.

    Args:
        arguments: command-line arguments; None for those of this process.
        prog: the command, for messages.
    """
    dispatch(COMMANDS, DESCRIPTION, arguments, prog)
