"""Time evaluation: mtp's against mmrotate's and pycocotools', on the same synthetic predictions.

    python tools/benchmark/evaluate.py [--images 2000] [--detections 50] [--json FILE]

Four comparisons in one run: rotated mAP, COCO AP of boxes, COCO AP of masks, and the encoding of
masks as run lengths. Each also reports how far the figures are apart.
"""

import argparse
import contextlib
import datetime
import io
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mtp  # noqa: F401  (also in the processes of mmrotate's pool)
from mtp.files import json_text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=2000, help='number of images (2000)')
    parser.add_argument('--detections', type=int, default=50, help='predictions per image (50)')
    parser.add_argument('--repeats', type=int, default=1, help='runs to take the median of (1)')
    parser.add_argument('--json', type=Path, help='file to write the rows of the table to')
    return parser.parse_args()


def main() -> None:
    options = parse()
    import numpy as np
    import torch
    from evaluation.forms import CLASSES, OBJECTS, SIZE, comparisons, made_up
    from operators.timing import describe

    rng = np.random.default_rng(0)
    images = [made_up(rng, options.detections) for _ in range(options.images)]
    report = dict(
        device=describe(torch.device('cpu')),
        torch=torch.__version__,
        date=str(datetime.date.today()),
        images=options.images,
        detections=options.detections,
        objects=OBJECTS,
        classes=CLASSES,
        repeats=options.repeats,
        rows=[],
    )
    print(
        f'{report["device"]}, torch {report["torch"]}, {report["date"]}\n{options.images} images '
        f'of {SIZE} px, {options.detections} predictions and {OBJECTS} objects each, {CLASSES} '
        f'classes, median of {options.repeats}\n\n{"":<46}{"s":>9}{"CPU s":>9}{"x mtp":>8}'
        f'{"CPU":>8}  difference'
    )
    for title, forms, difference in comparisons(images):
        rows = compare(title, forms, difference, options.repeats)
        for row in rows:
            print(
                f'{row["what"]:<12} {row["form"]:<33}{row["s"]:>9.3f}{row["cpu_s"]:>9.3f}'
                f'{row["times"]:>8.1f}{row["cpu_times"]:>8.1f}  {row["difference"]:.1e}',
                flush=True,
            )
        report['rows'] += rows
    if options.json:
        options.json.write_text(json_text(report, indent=1))


def compare(
    what: str,
    forms: dict[str, Callable[[], Callable]],
    difference: Callable[[Any, Any], float],
    repeats: int,
) -> list[dict[str, Any]]:
    """Return a row for each implementation; they take turns, and the first is mtp's."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    found = {}
    for _ in range(repeats):
        for name, form in forms.items():
            call = form()  # its preparation is not timed
            begun = time.perf_counter(), processor_time()
            with contextlib.redirect_stdout(io.StringIO()):
                found[name] = call()
            ended = time.perf_counter()
            for process in multiprocessing.active_children():
                process.join()  # mmrotate does not wait for its pool to end; its time counts
            times[name].append((ended - begun[0], processor_time() - begun[1]))
    rows = [
        dict(what=what, form=name, difference=difference(found[name], found['mtp']))
        | {key: statistics.median(one) for key, one in zip(('s', 'cpu_s'), zip(*runs))}
        for name, runs in times.items()
    ]
    for row in rows:
        row |= dict(times=row['s'] / rows[0]['s'], cpu_times=row['cpu_s'] / rows[0]['cpu_s'])
    return rows


def processor_time() -> float:
    """Return processor seconds of this process and of its children that have ended."""
    # not os.times(), which counts in hundredths of a second
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


if __name__ == '__main__':
    main()
