"""Time the prediction of a scene against the same tiles in memory, and measure its memory.

    python tools/benchmark/predict.py CHECKPOINT --sides 2000 --pairs 5
    python tools/benchmark/predict.py CHECKPOINT --sides 5000 20000 --memory

With --memory, each scene is predicted in a process of its own, whose peak is printed.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtp.prediction.run_scene import SceneOptions, SceneRun
    from mtp.prediction.scene_files import Model

LAYOUTS = dict(tiled=dict(tiled=True), striped=dict(tiled=False))


def make_scene(path: Path, side: int, layout: str) -> None:
    """Write a scene of noise, strip by strip."""
    import numpy as np
    import rasterio

    profile = dict(dtype='uint8', crs='EPSG:32632', photometric='RGB', compress='deflate', zlevel=1)
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
    noise = np.random.default_rng(0)
    with rasterio.open(
        path, 'w', 'GTiff', side, side, 3, transform=transform, **profile, **LAYOUTS[layout]
    ) as file:
        for top in range(0, side, 512):
            rows = min(512, side - top)
            pixels = noise.integers(0, 99, (3, rows, side), np.uint8)
            file.write(pixels, window=rasterio.windows.Window(0, top, side, rows))


def open_run(model: 'Model', path: Path, options: 'SceneOptions', work: Path) -> 'SceneRun':
    """Return the prediction of a scene, ready to run."""
    from mtp.prediction.run_scene import SceneRun
    from mtp.prediction.scenes import Scene

    return SceneRun(model, Scene(path, model.loader, {}, model.mean), options, work)


def times_of(model: 'Model', path: Path, options: 'SceneOptions') -> tuple[float, float, float]:
    """Return tiles a second of a scene, of its tiles in memory, and of reading alone."""
    from mtp.prediction.model import Keep

    with tempfile.TemporaryDirectory() as work:
        run = open_run(model, path, options, Path(work))
        begin = time.perf_counter()
        run.run()
        of_scene = run.number / (time.perf_counter() - begin)
        begin = time.perf_counter()
        batches = list(run._batches(range(len(run.tiles.tops))))
        reading = run.number / (time.perf_counter() - begin)
        keep = Keep(model, options.score)
        begin = time.perf_counter()
        for _, _, records in batches:
            model.samples(records, keep.datasets)
        in_memory = run.number / (time.perf_counter() - begin)
        run.scene.close()
    return of_scene, in_memory, reading


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--sides', type=int, nargs='+', default=[2000], help='of scenes, pixels')
    parser.add_argument('--pairs', type=int, default=5, help='repetitions (%(default)s)')
    parser.add_argument('--batch', type=int, default=4, help='tiles at once (%(default)s)')
    parser.add_argument('--layout', nargs='+', choices=LAYOUTS, default=[*LAYOUTS])
    parser.add_argument('--memory', action='store_true', help='measure peak memory instead')
    parser.add_argument('--once', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    import mtp
    from mtp.prediction.run_scene import SceneOptions

    options = SceneOptions(batch_size=args.batch)
    if args.once:
        model = mtp.load(args.checkpoint)
        model.predict(args.once, args.once.with_suffix('.out'), batch_size=args.batch)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sides:
            for layout in args.layout:
                path = Path(folder) / f'{layout}_{side}.tif'
                make_scene(path, side, layout)
                name = f'{side} x {side}, {layout}'
                if args.memory:
                    begin = time.perf_counter()
                    command = [sys.executable, __file__, args.checkpoint, '--once', path]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    peak = float(done.stdout.split()[-1])
                    print(f'{name}: peak {peak:,.0f} MiB, {time.perf_counter() - begin:.0f} s')
                    continue
                model = mtp.load(args.checkpoint)
                times_of(model, path, options)  # warm
                rounds = [times_of(model, path, options) for _ in range(args.pairs)]
                scene, memory, reading = map(statistics.median, zip(*rounds))
                share = statistics.median(a / b for a, b, _ in rounds)
                print(
                    f'{name}: {scene:.2f} tiles/s, in memory {memory:.2f} ({share:.0%}), reading '
                    f'alone {reading:.0f}; {torch.get_num_threads()} threads'
                )


if __name__ == '__main__':
    main()
