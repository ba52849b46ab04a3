"""Measure the loader: processor time per sample, by stage, against the paper's transforms.

    python tools/benchmark/data.py [--textures IMAGE ...] [--json FILE]

The files (PNG, JPEG, packed) are made first. Then both pipelines load the same samples three times.
The first pass compares their masks and label maps bit by bit, and brings the files into memory. The
second is timed, one pipeline after the other in one thread. The third is timed by stage.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)
from mtp.files import json_text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--textures',
        nargs='+',
        type=Path,
        default=[],
        help='images to cut backgrounds from (default: noise)',
    )
    parser.add_argument(
        '--side', type=int, default=1024, help='side of the images, pixels (default: 1024)'
    )
    parser.add_argument('--objects', type=int, default=30, help='objects per image (default: 30)')
    parser.add_argument(
        '--images', type=int, default=8, help='number of images to make (default: 8)'
    )
    parser.add_argument(
        '--samples', type=int, default=64, help='number of samples to load (default: 64)'
    )
    parser.add_argument(
        '--size', type=int, default=448, help='side of the crops, pixels (default: 448)'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='file to write the rows to')
    return parser.parse_args()


def main() -> None:
    args = parse()
    import cv2
    import torch
    from loading.files import make_files
    from loading.timing import measure, ours, papers

    from mtp.data import MultiTaskDataset, PackedDataset, SAMRSDataset
    from mtp.data.packed import pack

    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ('.png', '.jpg'):
            root = Path(folder) / suffix[1:]
            make_files(root, suffix, args.images, args.side, args.objects, args.textures)
            pipelines = papers(args.size), ours(args.size)
            paper, mine = (
                MultiTaskDataset([SAMRSDataset('sota', str(root), pipeline=p)]) for p in pipelines
            )
            rows.append(measure(suffix[1:], paper, mine, args.samples))
            if suffix == '.png':
                packed = Path(folder) / 'packed'
                pack(SAMRSDataset('sota', str(root)), packed, workers=1)
                paper = MultiTaskDataset([SAMRSDataset('sota', str(root), pipeline=pipelines[0])])
                mine = MultiTaskDataset([PackedDataset(str(packed), pipeline=pipelines[1])])
                rows.append(measure('packed, of the png', paper, mine, args.samples))
    print(markdown(rows))
    if args.json:
        args.json.write_text(json_text(rows, indent=1))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as tables in Markdown: times, then stages of each pipeline."""
    lines = [
        "| files | paper's transforms, ms | ours, ms | ratio | ours, images/s per core |",
        '| --- | --: | --: | --: | --: |',
    ]
    lines += [
        f'| {row["files"]} | {row["paper_ms"]:.1f} | {row["ours_ms"]:.2f} | '
        f'{row["ratio"]:.1f} | {row["images_per_second"]:.0f} |'
        for row in rows
    ]
    for key, title in (('paper_stages', "paper's"), ('ours_stages', 'ours')):
        names = list(dict.fromkeys(name for row in rows for name in row[key]))
        lines += [
            '',
            f'| {title}, ms | ' + ' | '.join(names) + ' |',
            '| --- |' + ' --: |' * len(names),
        ]
        lines += [
            f'| {row["files"]} | '
            + ' | '.join(f'{row[key][name]:.2f}' if name in row[key] else '-' for name in names)
            + ' |'
            for row in rows
        ]
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
