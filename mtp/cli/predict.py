"""Predict on images and scenes: ``mtp predict CHECKPOINT INPUT... --out DIR``.

    mtp predict work_dirs/boats/epoch_36.pth harbour.tif --out found
    mtp predict work_dirs/change/epoch_100.pth before.tif after.tif --out found

Inputs are images, scenes of any size (GeoTIFF, COG, VRT), folders of them, and .txt lists. Scenes
are predicted tile by tile; what is found is written in the scene's place on the map: objects as
GeoJSON, label maps as GeoTIFF, unless --format says otherwise. An interrupted prediction goes on
when the command is given again. The exit code is 1 if an input could not be used.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.cli.arguments import add_bands, add_device, count
from mtp.cli.errors import add_debug, users_errors
from mtp.cli.own_gpu import choose_device

if TYPE_CHECKING:
    from mtp.prediction.scene_outputs import ScenePrediction


def parse_args(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint',
        help='a checkpoint of training, hf://owner/name, or a name of `mtp weights list`',
    )
    parser.add_argument(
        'inputs',
        type=Path,
        nargs='+',
        metavar='INPUT',
        help='image, scene, folder or .txt list; of a change detector BEFORE AFTER, or a folder '
        'with A/ and B/',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write')
    parser.add_argument(
        '--format',
        nargs='+',
        default=(),
        choices=('geojson', 'gpkg', 'coco', 'dota', 'tif', 'png'),
        help='files to write (objects: geojson; label maps: tif)',
    )
    parser.add_argument(
        '--score', type=float, default=0.3, help='smallest score of objects, 0 to 1 (%(default)s)'
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='classes of objects to keep')
    parser.add_argument(
        '--dataset', nargs='+', metavar='NAME', help='data sets of a multi-task model (all)'
    )
    parser.add_argument(
        '--max-objects', type=count, metavar='N', help='most objects of a tile, the best ones'
    )
    parser.add_argument(
        '--tile', type=count, metavar='N', help="side of a tile in pixels (the model's own)"
    )
    parser.add_argument(
        '--overlap', type=int, metavar='N', help='overlap of tiles in pixels (a quarter of a tile)'
    )
    parser.add_argument(
        '--merge',
        choices=('iou', 'ios'),
        default='iou',
        help='merge objects by overlap over union (of two tiles also over the smaller box), or '
        'over the smaller box alone (%(default)s)',
    )
    parser.add_argument(
        '--blend',
        choices=('cosine', 'centre'),
        default='cosine',
        help='blend label maps with weights, or take each pixel from the tile whose edge is '
        'farthest (%(default)s)',
    )
    parser.add_argument(
        '--tta',
        type=_kinds,
        default=(),
        metavar='flip,rot90,scale',
        help='also predict tiles mirrored, turned or resized; logits are averaged, objects merged',
    )
    parser.add_argument('--batch', type=count, metavar='N', help='tiles at once (as memory allows)')
    parser.add_argument(
        '--area', type=Path, metavar='FILE', help='vector file of the ground to predict'
    )
    parser.add_argument(
        '--truth', type=Path, metavar='FILE', help="vector file of a scene's labels, to judge it by"
    )
    parser.add_argument(
        '--class-column', metavar='NAME', help='column of the class in --truth (the only fitting)'
    )
    parser.add_argument(
        '--gsd',
        type=_distance,
        metavar='M|none',
        help='ground sampling distance in metres that scenes are resampled to; none: leave them '
        "(that of the training's data)",
    )
    add_bands(parser)
    parser.add_argument(
        '--crs', help='reference system of vectors (GeoJSON: WGS84; GeoPackage: the scene)'
    )
    parser.add_argument(
        '--polygonize', action='store_true', help='make polygons of label maps, too'
    )
    parser.add_argument(
        '--min-area', type=float, default=0, metavar='M2', help='smallest of these polygons'
    )
    parser.add_argument(
        '--config',
        type=Path,
        metavar='FILE',
        help='config of the training, for checkpoints that do not describe their model',
    )
    parser.add_argument(
        '--allow',
        nargs='+',
        default=(),
        metavar='PACKAGE',
        help='packages of your own whose classes a checkpoint may use',
    )
    add_device(parser)
    add_debug(parser)
    args = parser.parse_args(arguments)
    if not 0 <= args.score <= 1:
        parser.error('--score must be from 0 to 1')
    return args


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(',')))


def _distance(text: str) -> float:
    """Parse ``--gsd``; 0 stands for none."""
    if text == 'none':
        return 0.0
    try:
        distance = float(text)
    except ValueError:
        distance = -1
    if not distance > 0:
        raise argparse.ArgumentTypeError(f'{text!r} is neither metres above 0 nor none')
    return distance


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    args = parse_args(arguments, prog)
    with users_errors(args.debug):
        choose_device(args.device)  # before torch starts
        bad = predict(args)
    if bad:
        print(f'{len(bad):,} could not be used:', *bad, sep='\n  ', file=sys.stderr)
        sys.exit(1)


def predict(args: argparse.Namespace) -> list[str]:
    """Predict as the command line says; return what could not be used, a line each."""
    from mtp.engine.devices import require_usable_gpu
    from mtp.prediction.batch import fitting_batch
    from mtp.prediction.found_inputs import find_inputs
    from mtp.prediction.from_checkpoint import load
    from mtp.prediction.run_scene import SceneOptions
    from mtp.prediction.scene_files import predict_scenes
    from mtp.prediction.scene_outputs import FileOptions

    require_usable_gpu(args.device)
    model = load(args.checkpoint, config=args.config, allow=args.allow)
    jobs = find_inputs(args.inputs, model.loader.is_pair)
    options = SceneOptions(
        score=args.score,
        classes=args.classes and tuple(args.classes),
        max_objects=args.max_objects,
        dataset=args.dataset and tuple(args.dataset),
        batch_size=args.batch or fitting_batch(model, args.tile),
        tile=args.tile,
        overlap=args.overlap,
        merge=args.merge,
        blend=args.blend,
        tta=args.tta,
    )
    files = FileOptions(
        formats=tuple(args.format),
        crs=args.crs,
        polygonize=args.polygonize,
        min_area=args.min_area,
        area=args.area,
        truth=args.truth,
        class_column=args.class_column,
        bands=args.bands or None,
        stretch=args.stretch,
        gsd=args.gsd,
        inputs=frozenset(path.resolve() for path in chain(args.inputs, *jobs)),
    )
    print(
        f'model: {model.task}, {len(model.classes)} classes, on {model.device}, '
        f'{options.batch_size} tiles at once'
    )
    bad = []
    with _Bar(len(jobs)) as bar:
        for path, found in predict_scenes(model, jobs, args.out, options, files, bar.show):
            bar.number += 1
            if isinstance(found, Exception):
                bad.append(' '.join(str(found).split()))
                continue
            for line in describe(path, found):
                bar.say(line)
    return bad


def describe(path: Path, found: 'ScenePrediction') -> Iterator[str]:
    """Yield what is to be said of a predicted scene."""
    from mtp.prediction.results import Detections

    yield from (f'note: {text}' for text in found.notes)
    counts: Counter[str] = Counter()
    for result in found.results.values():
        if isinstance(result, Detections):
            counts.update(result.names)
    of_classes = ', '.join(f'{count:,} {name}' for name, count in counts.most_common(5))
    what = f', {counts.total():,} objects' + (f' ({of_classes})' if counts else '')
    objects = any(isinstance(result, Detections) for result in found.results.values())
    for key, figures in found.figures.items():
        name = ' '.join(filter(None, key))
        shown = {name: value for name, value in figures.items() if name != 'objects'}
        text = '  '.join(f'{figure}: {value:.2f}' for figure, value in shown.items())
        yield f'{name}, percent: {text}'
    files = ', '.join(map(str, found.files))
    yield f'{path}: {found.tiles:,} tiles{what if objects else ""}; {files}'


class _Bar:
    """Progress of tiles, with the time left; of several inputs, their number in front."""

    def __init__(self, jobs: int) -> None:
        from tqdm import tqdm

        self.jobs, self.number = jobs, 0
        self.bar = tqdm(unit='tile', disable=None)

    def __enter__(self) -> '_Bar':
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, path: Path, done: int, total: int) -> None:
        """Show the finished tiles of an input, and all of them."""
        count = f'{self.number + 1}/{self.jobs} ' if self.jobs > 1 else ''
        self.bar.set_description(f'{count}{path.name}', refresh=False)
        if done < self.bar.n or total != self.bar.total:
            self.bar.reset(total)
        self.bar.update(done - self.bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.bar.write(line)


if __name__ == '__main__':
    main()
