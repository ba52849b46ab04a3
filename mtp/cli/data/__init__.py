"""``mtp data``: a module for each subcommand."""

from collections.abc import Sequence

from mtp.cli.main import Command, dispatch

DESCRIPTION = 'Prepare, check and look at data.'
COMMANDS = {
    name: Command(f'{__name__}.{module}', summary)
    for name, module, summary in (
        ('inspect', 'inspect_folder', 'look at a folder in any common form'),
        ('import', 'import_folder', 'import a folder in any common form'),
        ('prepare', 'prepare_dataset', "from a publisher's files to what a config reads"),
        ('check', 'check_dataset', 'check all files before training'),
        ('browse', 'browse_samples', 'draw what a model is trained on'),
        ('pack', 'pack_dataset', 'pack into a few large files that need no decoding'),
        ('coco-to-samrs', 'coco_to_samrs', 'make a multi-task data set from COCO annotations'),
        ('samrs-to-coco', 'samrs_to_coco', 'make the COCO json files of SAMRS'),
        ('make-synthetic', 'make_synthetic', 'make a small synthetic data set to try things on'),
    )
}


def main(arguments: Sequence[str] | None = None, prog: str = 'mtp data') -> None:
    """Run a subcommand.

    Args:
        arguments: command-line arguments; None for those of this process.
        prog: the command, for messages.
    """
    dispatch(COMMANDS, DESCRIPTION, arguments, prog)
