"""The worked examples of docs/your_data.md: their files are made, and their commands are run.

``tests/test_your_data.py`` compares what is printed with the page. ``python -m tests.your_data``
writes what is printed today into it.
"""

import contextlib
import io
import os
import re
import shlex
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mtp.cli import main, train
from mtp.cli.errors import users_errors
from mtp.cli.own_training import own_config
from mtp.data.image_files import is_image
from tests.conftest import REPO

PAGE = REPO / 'docs' / 'your_data.md'
SIDE = 64  # of an image that the page does not describe, pixels
ENCODER = 'vit_tiny_rvsa'  # in place of the page's
BANDS = 8  # of a label map: the values of the page, from left to right and again


@dataclass(frozen=True)
class Example:
    """A section of the page with files and commands.

    Attributes:
        title: heading of the section.
        tree: its block ``tree``: files with their content.
        console: its block ``console``: commands, each after ``$``, with what they print.
    """

    title: str
    tree: str
    console: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command with what it prints."""
        for entry in re.split(r'^\$ ', self.console, flags=re.M)[1:]:
            command, _, printed = entry.partition('\n')
            yield command, printed


def examples(page: str) -> list[Example]:
    """Return the examples of the page."""
    found = []
    for section in re.split(r'^## ', page, flags=re.M)[1:]:
        blocks = dict(re.findall(r'^```(tree|console)\n(.*?)^```', section, re.M | re.S))
        if 'tree' in blocks:
            found.append(Example(section.partition('\n')[0], blocks['tree'], blocks['console']))
    return found


def make_files(tree: str) -> None:
    """Make the files of a block ``tree`` in the working directory.

    A line is a path, after it its content; further lines of the content are indented.
    ``1.png 2.png`` are files of one folder. The content of an image is the values of a label map,
    or nothing.
    """
    for entry in re.split(r'\n(?=\S)', tree.rstrip()):
        first, *more = entry.split('\n')
        paths, _, content = first.partition('  ')
        folder = Path(paths.split()[0]).parent
        text = '\n'.join([content.strip(), *(line.strip() for line in more)]).strip()
        for name in paths.split():
            path = folder / Path(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_image(path.name):
                draw(path, text)
            else:
                path.write_text(f'{text}\n' if text else '')


def draw(path: Path, content: str) -> None:
    """Draw an image, or a label map by its values, such as ``grey 0 1`` or ``RGB #ffffff``.

    ``GeoTIFF EPSG:32633 500000 5000000`` is an image with 1 m a pixel and the place of its upper
    left corner.
    """
    place = re.fullmatch(r'GeoTIFF EPSG:(\d+) (\d+) (\d+)', content)
    if not content or place:
        drawn = np.random.default_rng(zlib.crc32(str(path).encode()))
        pixels = drawn.integers(0, 255, (SIDE, SIDE, 3))
        tags = {'tiffinfo': geo_tags(*map(int, place.groups()))} if place else {}
        Image.fromarray(pixels.astype(np.uint8)).save(path, **tags)
        return
    kind, values = re.fullmatch(r'(grey|palette|16 bits|RGB) (.+)', content).groups()
    values = [
        [int(each[i : i + 2], 16) for i in (1, 3, 5)] if kind == 'RGB' else int(each)
        for each in values.split()
    ]
    row = np.array(values)[np.arange(SIDE) * BANDS // SIDE % len(values)]
    pixels = np.broadcast_to(row, (SIDE, *row.shape))
    image = Image.fromarray(pixels.astype(np.uint16 if kind == '16 bits' else np.uint8))
    if kind == 'palette':
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.save(path)


def geo_tags(epsg: int, x: int, y: int) -> dict[int, tuple]:
    """Return the tags of a GeoTIFF: metres a pixel, upper left corner, reference system."""
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    corner = (0.0, 0.0, 0.0, float(x), float(y), 0.0)
    return {33550: (1.0, 1.0, 0.0), 33922: corner, 34735: keys}


def run(command: str) -> str:
    """Run a command of the page in the working directory; return what it prints.

    ``mtp train --data`` writes the config, for a small encoder, and does not train.
    """
    program, *arguments = shlex.split(command)
    assert program == 'mtp'
    printed, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            if arguments[0] == 'train':
                asked = train.own_request(train.parse_args(arguments[1:]))
                with users_errors():
                    print(*own_config(replace(asked, encoder=ENCODER, weights='none'))[2], sep='\n')
            else:
                main.main(arguments)
        except SystemExit as stop:
            code = 1
            errors.write(stop.code if isinstance(stop.code, str) else '')
    if not code:
        return printed.getvalue()
    said = [line for line in errors.getvalue().splitlines() if line and 'it/s]' not in line]
    return printed.getvalue() + '\n'.join([*said, f'(exit code {code})', ''])


def short(command: str, printed: str) -> str:
    """Return what the page shows of it: of a training, the task alone."""
    if command.startswith('mtp train') and '(exit' not in printed:
        lines = [line for line in printed.splitlines() if line.startswith(('task:', 'data:'))]
        return '\n'.join([*lines, '...', ''])
    return printed


def filled(page: str) -> str:
    """Return the page with what is printed today."""
    for example in examples(page):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            make_files(example.tree)
            entries = [
                f'$ {command}\n{short(command, run(command))}' for command, _ in example.commands()
            ]
            os.chdir(REPO)
        begin = page.index(example.console, page.index(f'## {example.title}\n'))
        page = page[:begin] + ''.join(entries) + page[begin + len(example.console) :]
    return page


if __name__ == '__main__':
    os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
    PAGE.write_text(filled(PAGE.read_text()))
