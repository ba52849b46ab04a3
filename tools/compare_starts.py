"""Finetune from a pretrained encoder and from scratch, with the same budget, and compare.

    python tools/compare_starts.py --encoder work_dirs/vit_tiny_rvsa_nwpu/encoder.pth

Trains each config of ``configs/finetune/tiny`` (or each given one) twice, into
``work_dirs/starts/<config>/<start>``; draws losses and test figures of both; prints a table.
Finished runs are not repeated.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from mtp import resources
from mtp.cli.arguments import add_device
from mtp.visualization.curves import plot_starts, read_scalars

# config -> its main figure, by its key in the log
METRICS = {
    'aid': 'accuracy/top1',
    'oscd': 'changed/F1',
    'ucas_aod_horizontal': 'coco/bbox_mAP_50',
    'ucas_aod_rotated': 'dota/mAP',
}
REPO = Path(__file__).resolve().parents[1]


def train(config: Path, work_dir: Path, start: str | None, device: str) -> None:
    """Run ``tools/train.py`` unless it has already finished in ``work_dir``."""
    done = work_dir / 'finished'
    if done.is_file():
        return
    option = (
        'model.backbone.init_cfg=None'
        if start is None
        else f'model.backbone.init_cfg.checkpoint={start}'
    )
    subprocess.run(
        [
            sys.executable,
            REPO / 'tools' / 'train.py',
            config,
            '--work-dir',
            work_dir,
            '--resume',
            'auto',
            '--device',
            device,
            '--cfg-options',
            option,
        ],
        check=True,
    )
    done.touch()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'configs',
        nargs='*',
        type=Path,
        default=[resources.configs() / 'finetune' / 'tiny' / f'{name}.py' for name in METRICS],
    )
    parser.add_argument('--encoder', required=True, help='an encoder.pth of tools/train.py')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/starts'))
    add_device(parser)
    args = parser.parse_args()
    unknown = [config.stem for config in args.configs if config.stem not in METRICS]
    if unknown:
        parser.error(
            f'the main figure of {", ".join(unknown)} is unknown; known are those of '
            f'{", ".join(METRICS)}'
        )

    runs = {}
    for config in args.configs:
        runs[config.stem] = {}
        for start, encoder in (('scratch', None), ('pretrained', args.encoder)):
            work_dir = args.out / config.stem / start
            train(config, work_dir, encoder, args.device)
            runs[config.stem][start] = work_dir
    picture = plot_starts(runs, METRICS, args.out / 'starts.png')
    print(f'{"":<22}{"figure":<20}{"scratch":>12}{"pretrained":>12}')
    for name, of_start in runs.items():
        values = (read_scalars(work_dir)[METRICS[name]] for work_dir in of_start.values())
        last = (series[max(series)] for series in values)
        print(f'{name:<22}{METRICS[name]:<20}' + ''.join(f'{value:>12.4g}' for value in last))
    print(f'Curves: {picture}')


if __name__ == '__main__':
    main()
