"""Measure the peak memory of the prediction of scenes.

    python tools/benchmark/predict_memory.py --sides 5000 20000

The model labels each pixel by its colour in seven classes, so that nearly all memory is that of
reading, blending and writing. Each scene is predicted in a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TILE, BATCH = 512, 4


def resident(key: str) -> float:
    """Return the resident memory of this process in MiB.

    Args:
        key: ``'VmRSS'`` for that of now, ``'VmHWM'`` for its peak.
    """
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measure(path: Path, out: Path) -> None:
    """Predict a scene; print the memory before, and the peaks of the tiles and of all."""
    import torch
    from prediction.models import make_pixel_model

    from mtp.prediction.run_scene import SceneOptions
    from mtp.prediction.scene_files import predict_scenes

    torch.set_num_threads(1)
    model = make_pixel_model(TILE)
    before = resident('VmRSS')
    of_tiles = before

    def progress(path: Path, done: int, total: int) -> None:
        nonlocal of_tiles
        of_tiles = resident('VmHWM')

    begin = time.perf_counter()
    options = SceneOptions(batch_size=BATCH)
    ((_, found),) = predict_scenes(model, [[path]], out, options, progress=progress)
    seconds = time.perf_counter() - begin
    if isinstance(found, Exception):
        raise found
    print(
        f'{path.stem}: {before:,.0f} MiB before, peak {of_tiles:,.0f} up to the last tile, '
        f'{resident("VmHWM"):,.0f} to the end; {seconds:,.0f} s',
        flush=True,
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--sides', type=int, nargs='+', default=[5000, 20000], help='of scenes')
    parser.add_argument('--once', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.once:
            measure(args.once, Path(folder))
            return
        from prediction.noise_scene import LAYOUTS, make_scene

        for side in args.sides:
            for layout in LAYOUTS:
                path = Path(folder) / f'{layout}_{side}.tif'
                make_scene(path, side, layout)
                subprocess.run([sys.executable, __file__, '--once', path], check=True)
                path.unlink()


if __name__ == '__main__':
    main()
