"""Time the prediction of a scene, beside the same tiles in memory and mmdet's own inference.

    python tools/benchmark/predict.py tiny --rows 6
    python tools/benchmark/predict.py vit_l_rvsa --rows 2

The detectors have random weights. Each round times all in turn, in alternating order; the figures
are medians of the rounds. Reading, computing and writing are also timed apart, one after the other.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtp.prediction.run_scene import SceneRun
    from mtp.prediction.scene_files import Model

DETECTORS = ('tiny', 'vit_b_rvsa', 'vit_l_rvsa')


class Timed:
    """A scene, and what is timed on it; each method does all tiles once.

    Args:
        model: the detector.
        path: file of the scene.
        batch: number of tiles at once.
    """

    def __init__(self, model: 'Model', path: Path, batch: int) -> None:
        from mmcv.transforms import Compose
        from mmengine.registry import TRANSFORMS

        from mtp.prediction.model import Keep
        from mtp.prediction.run_scene import SceneOptions

        self.model, self.path, self.options = model, path, SceneOptions(batch_size=batch)
        self.keep = Keep(model, self.options.score)
        with tempfile.TemporaryDirectory() as work:
            run = self._open(work)
            self.number = run.number
            self.batches = [records for _, _, records in self._read(run)]
            run.scene.close()
        load = TRANSFORMS.build(dict(type='mmdet.LoadImageFromNDArray'))
        self.pipeline = Compose([load, *model.loader.rest.transforms])
        model.module.cfg = None  # mmdet asks for it, and with a pipeline does not use it
        self.images = [record['img'] for records in self.batches for record in records]

    def _open(self, work: str) -> 'SceneRun':
        from mtp.prediction.run_scene import SceneRun
        from mtp.prediction.scenes import Scene

        scene = Scene(self.path, self.model.loader, {}, self.model.mean)
        return SceneRun(self.model, scene, self.options, Path(work))

    @staticmethod
    def _read(run: 'SceneRun') -> list:
        return [*run._batches(range(len(run.tiles.tops)))]

    def scene(self) -> None:
        """Predict the scene into a file."""
        with tempfile.TemporaryDirectory() as out:
            self.model.predict(self.path, out, batch_size=self.options.batch_size)

    def memory(self) -> None:
        """Predict the tiles as images in memory."""
        for records in self.batches:
            self.model.samples(records, self.keep.datasets)

    def mmdet(self) -> None:
        """Predict the tiles with mmdet, which takes one at a time."""
        from mmdet.apis import inference_detector
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope('mmdet'):
            inference_detector(self.model.module, self.images, self.pipeline)

    def parts(self) -> dict[str, float]:
        """Return the seconds of reading, computing and writing."""
        from mtp.prediction import outputs

        with tempfile.TemporaryDirectory() as work:
            run = self._open(work)
            contents: list[dict] = [{} for _ in run.tiles.tops]
            times = [time.perf_counter()]
            batches = self._read(run)
            times.append(time.perf_counter())
            for row, places, records in batches:
                run._predict(places, records, contents[row])
            for row, content in enumerate(contents):
                run._finish(row, content)
            times.append(time.perf_counter())
            for row, content in enumerate(contents):
                run.rows.write(row, content)
            (key,) = run.keys()
            outputs.write_objects(run.objects(key), Path(work, 'found.geojson'))
            times.append(time.perf_counter())
            run.scene.close()
        names = ('reading', 'computing', 'writing')
        return {name: end - begin for name, begin, end in zip(names, times, times[1:])}


def seconds(action: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', choices=DETECTORS)
    parser.add_argument('--tile', type=int, default=224, help='side in pixels (%(default)s)')
    parser.add_argument('--rows', type=int, default=2, help='of tiles, and columns (%(default)s)')
    parser.add_argument('--rounds', type=int, default=5, help='(%(default)s)')
    parser.add_argument('--batch', type=int, default=4, help='tiles at once (%(default)s)')
    args = parser.parse_args()
    import torch
    from prediction.models import make_detector
    from prediction.noise_scene import LAYOUTS, make_scene

    from mtp.prediction.run_scene import OVERLAP

    model = make_detector(args.model, args.tile)
    side = args.tile + (args.rows - 1) * (args.tile - round(args.tile * OVERLAP))
    print(f'{args.model}, {args.rows**2} tiles of {args.tile}, {torch.get_num_threads()} threads')
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'scene.tif'
            make_scene(path, side, layout)
            timed = Timed(model, path, args.batch)
            ways = dict(scene=timed.scene, memory=timed.memory, mmdet=timed.mmdet)
            for action in ways.values():  # the first time is slower
                action()
            rounds = []
            for number in range(args.rounds):
                order = [*ways] if number % 2 == 0 else [*ways][::-1]
                rounds.append({name: seconds(ways[name]) for name in order} | timed.parts())
        shown = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        rates = ', '.join(f'{name} {timed.number / shown[name]:.2f}' for name in ways)
        parts = ', '.join(
            f'{name} {value:.2f}' for name, value in shown.items() if name not in ways
        )
        share = statistics.median(each['memory'] / each['scene'] for each in rounds)
        print(
            f'{layout}: tiles/s {rates}; scene to memory {share:.1%}; seconds: {parts}', flush=True
        )


if __name__ == '__main__':
    main()
