"""Look at a folder of images and labels in any common form, before importing or training.

    mtp data inspect DIR

Prints the form, the classes with their counts, sizes, what is left out, and faults with file and
line. Draws samples with their labels. The exit code is 1 if there are faults.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mtp.cli.arguments import add_form
from mtp.cli.errors import add_debug, users_errors


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='folder of the data, or its data.yaml')
    parser.add_argument('--json', action='store_true', help='print the report as json')
    add_form(parser)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/inspect'),
        help='folder for the picture of samples (default: %(default)s)',
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    from PIL import Image

    from mtp.data.own.contents import read_data
    from mtp.data.own.inspection import draw_page, inspect, report
    from mtp.data.own.recognition import recognise

    with users_errors(args.debug):
        data = read_data(recognise(args.folder, args.format), args.class_column)
        found = inspect(data)
    print(json.dumps(found.as_dict(), indent=1) if args.json else report(found))
    if data.samples:
        args.out.mkdir(parents=True, exist_ok=True)
        picture = args.out / f'{args.folder.resolve().name}.png'
        Image.fromarray(draw_page(data)).save(picture)
        print(f'samples are drawn in {picture}', file=sys.stderr)
    if found.faults:
        sys.exit(1)


if __name__ == '__main__':
    main()
