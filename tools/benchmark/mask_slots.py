"""Record how many mask positives images have while a model trains, and what the quotas make of it.

    python tools/benchmark/mask_slots.py CONFIG OUT [--samples N] [--cfg-options KEY=VALUE ...]

trains the instance task of CONFIG alone, in one process and without validation. At every second
step it appends a line per image to ``OUT/positives.jsonl``: ``step``, ``objects``, ``positives``
among N sampled boxes, and the image's share of the ``slots`` of the batch. At the end, or where OUT
has these records already, it prints by part of the training: positives of an object, quotas
(``mtp/mask_quota.py``) and slots over filled slots, and positives left out. Below it, for the last
third of the training, is the least that any function of the number of objects would need, chosen
in hindsight.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from mtp.cli.arguments import RunOptions, add_config_options

if TYPE_CHECKING:
    from mtp.models.tasks.ground_truth import GroundTruth
    from mtp.models.tasks.rpn_head import Proposals

EVERY = 2  # steps from one record to the next
PARTS = 6  # rows of the table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='pretraining config with the task instance')
    parser.add_argument('out', type=Path, help='folder for the records and the run')
    parser.add_argument('--samples', type=int, default=512, help='boxes sampled per image (512)')
    add_config_options(parser)
    return parser.parse_args()


def train(config: str, out: Path, samples: int, options: dict[str, Any]) -> None:
    """Train with a record of the positives."""
    from mtp.cli import launch
    from mtp.engine.batch_size import share_batch

    cfg = launch.load_config(RunOptions(config, out / 'run', cfg_options=options))
    for part in ('cfg', 'dataloader', 'evaluator'):
        cfg[f'val_{part}'] = cfg[f'test_{part}'] = None
    cfg.model.tasks = dict(instance=cfg.model.tasks.instance)
    for dataset in (*cfg.model.datasets.values(), *cfg.train_dataloader.dataset.datasets):
        dataset.tasks = ('instance',)
    share_batch(cfg, 1)
    runner = launch.build_runner(cfg)
    head = runner.bare_model.tasks['instance'].roi_head
    targets = head.targets
    with (out / 'positives.jsonl').open('w') as file:

        def record(proposals: 'Proposals', truth: 'GroundTruth') -> tuple:
            if runner.iter % EVERY == 0:
                with patch.object(head.bbox_sampler, 'num', samples):
                    _, found, _ = targets(proposals, truth)
                counts = truth.valid.sum(1).tolist()
                slots = min(truth.mask_slots / len(counts), found.most)
                for objects, number in zip(counts, found.positive.sum(1).tolist()):
                    row = dict(step=runner.iter, objects=objects, positives=number)
                    file.write(json.dumps(row | dict(most=found.most, slots=slots)) + '\n')
                file.flush()
            return targets(proposals, truth)

        head.targets = record
        runner.train()


def report(rows: list[dict[str, Any]]) -> str:
    """Return the tables of the module's docstring."""
    from mtp.mask_quota import mask_quota

    table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    quotas = np.minimum([mask_quota(n) for n in table['objects'].tolist()], table['most'])
    lines = [
        '| steps | images | objects | positives | an object | quotas / filled | slots / filled | '
        'left out, % |',
        '| --- |' + ' --: |' * 7,
    ]
    for part in np.array_split(np.arange(len(rows)), PARTS):
        objects, positives, slots = (table[k][part] for k in ('objects', 'positives', 'slots'))
        filled = np.minimum(positives, quotas[part]).sum()
        steps = table['step'][part]
        lines.append(
            f'| {steps[0]} to {steps[-1]} | {len(part)} | {objects.mean():.1f} | '
            f'{positives.mean():.1f} | {positives.sum() / objects.sum():.2f} | '
            f'{quotas[part].sum() / filled:.2f} | {slots.sum() / filled:.2f} | '
            f'{100 - 100 * filled / positives.sum():.2f} |'
        )
    lines += ['', '| left out, % | quotas / filled |', '| --: | --: |']
    last = len(rows) * 2 // 3
    for left, needed in in_hindsight(table['objects'][last:], table['positives'][last:]):
        lines.append(f'| {100 * left:.1f} | {needed:.2f} |')
    return '\n'.join(lines)


def in_hindsight(objects: np.ndarray, positives: np.ndarray) -> list[tuple[float, float]]:
    """Return shares left out, and the least quotas over filled slots, for the same images.

    Images with the same number of objects get the same quota: a quantile of their positives.
    """
    found = []
    for exceeded in (0.02, 0.05, 0.1, 0.2, 0.3):
        quotas = np.zeros(len(positives))
        for number in np.unique(objects):
            same = objects == number
            quotas[same] = np.quantile(positives[same], 1 - exceeded, method='higher')
        filled = np.minimum(positives, quotas).sum()
        found.append((1 - filled / positives.sum(), quotas.sum() / filled))
    return found


def main() -> None:
    options = parse()
    records = options.out / 'positives.jsonl'
    if not records.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        train(options.config, options.out, options.samples, options.cfg_options)
    print(report([json.loads(line) for line in records.read_text().splitlines()]))


if __name__ == '__main__':
    main()
