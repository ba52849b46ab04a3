"""From folders of 30 real images to trained models, on the machine at hand.

``python -m tests.few_images --out DIR [FORM ...]`` writes the folders, trains on each with ``mtp
train --data``, and judges the model before and after with ``mtp test``. The table in
docs/your_data.md is what it printed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.label_forms import Truth, write

SHARED = Path(os.environ.get('MTP_SHARED', '../shared'), 'data')
IMAGES = 30
ENCODER = 'vit_tiny_rvsa'
SPLIT = '0.7'  # share of the images to train on
UPRIGHT, ROTATED = ('coco', 'voc', 'yolo'), ('dota', 'yolo_obb', 'fair1m')
FORMS = (*UPRIGHT, *ROTATED, 'masks', 'classes', 'pairs')
CLASSES = ('Beach', 'DenseResidential', 'Forest', 'Parking', 'River')  # of AID
PAIRS = ('levir_cd_samples', 'dsifn_samples', 'egy_bcd_samples')


@dataclass(frozen=True)
class Outcome:
    """What came out for a folder.

    Attributes:
        form: form of the labels.
        figure: name of the compared figure.
        untrained: the figure of the model before training, percent.
        trivial: the figure of the best answer that is the same for all images, percent.
        trained: the figure of the model after training, percent.
        steps: number of steps of the training.
        minutes: time of the training with its validations, from the command to its end.
    """

    form: str
    figure: str
    untrained: float
    trivial: float
    trained: float
    steps: int
    minutes: float


def make_boxes(form: str, folder: Path) -> None:
    """Write every 17th image of NWPU VHR-10 and its objects."""
    source = SHARED / 'nwpu_vhr10'
    labels = json.loads((source / 'instances_train.json').read_text())
    names = {category['id']: category['name'] for category in labels['categories']}
    images = sorted(labels['images'], key=lambda image: image['file_name'])
    truth: dict[str, list] = {}
    sizes = {}
    (folder / 'images').mkdir(parents=True)
    for entry in images[:: len(images) // IMAGES][:IMAGES]:
        path = Path(entry['file_name'])
        with Image.open(source / 'images' / path) as image:
            image.convert('RGB').save(folder / 'images' / f'{path.stem}.png')
        sizes[path.stem] = entry['height'], entry['width']
        objects = truth.setdefault(path.stem, [])
        for each in labels['annotations']:
            if each['image_id'] == entry['id']:
                x, y, width, height = each['bbox']
                corners = np.array(
                    [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
                )
                if form in ROTATED:
                    points = np.concatenate(
                        [np.reshape(ring, (-1, 2)) for ring in each['segmentation']]
                    )
                    corners = cv2.boxPoints(cv2.minAreaRect(points.astype('float32')))
                objects.append((names[each['category_id']], corners.astype(float)))
    classes = list(names.values())
    if form == 'masks':
        write_masks(labels, sizes, folder / 'labels')
    else:
        write_all(form, folder / 'labels', truth, classes, sizes)


def write_masks(labels: dict, sizes: Mapping[str, tuple[int, int]], folder: Path) -> None:
    """Write the part of a COCO json with masks that is of some images, by their names."""
    images = [
        dict(image, file_name=f'{Path(image["file_name"]).stem}.png')
        for image in labels['images']
        if Path(image['file_name']).stem in sizes
    ]
    chosen = {image['id'] for image in images}
    objects = [each for each in labels['annotations'] if each['image_id'] in chosen]
    folder.mkdir()
    content = dict(images=images, annotations=objects, categories=labels['categories'])
    (folder / 'instances.json').write_text(json.dumps(content))


def write_all(
    form: str, folder: Path, truth: Truth, classes: list[str], sizes: dict[str, tuple[int, int]]
) -> None:
    """Write the labels of images of several sizes."""
    if form == 'coco':
        write(form, folder, truth, classes, sizes)
        return
    for stem, objects in truth.items():
        write(form, folder, {stem: objects}, classes, sizes[stem])
    if form in ('yolo', 'yolo_obb'):
        (folder.parent / 'classes.txt').write_text('\n'.join(classes))


def make_classes(folder: Path) -> None:
    """Write the first images of some classes of AID."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        paths = sorted((SHARED / 'aid_150px' / name).glob('*.jpg'))
        for path in paths[: IMAGES // len(CLASSES)]:
            shutil.copy(path, folder / name)


def make_pairs(folder: Path) -> None:
    """Write the pairs of three data sets that have a change map."""
    for data_set in PAIRS:
        for label in sorted((SHARED / data_set).glob('**/label/*.png')):
            for part in ('A', 'B', 'label'):
                (folder / part).mkdir(parents=True, exist_ok=True)
                target = folder / part / f'{data_set}_{label.name}'
                shutil.copy(label.parents[1] / part / label.name, target)


def make(form: str, folder: Path) -> None:
    """Write a folder of 30 images with labels in one form."""
    if form == 'classes':
        make_classes(folder)
    elif form == 'pairs':
        make_pairs(folder)
    else:
        make_boxes(form, folder)


def trivial_answer(form: str, data: Path) -> float:
    """Return the best figure of answers that are the same for all validation images, percent."""
    if form == 'classes':
        numbers = [len(list(folder.iterdir())) for folder in (data / 'val').iterdir()]
        return 100 * max(numbers) / sum(numbers)
    if form == 'pairs':  # everything has changed; F1 of no change is 0
        maps = [np.array(Image.open(path)) > 0 for path in (data / 'val' / 'label').iterdir()]
        changed = np.concatenate([each.reshape(-1) for each in maps]).mean()
        return float(100 * 2 * changed / (1 + changed))
    return 0.0  # no box


FIGURES = dict(classes='accuracy/top1', pairs='changed/F1', masks='scene/made/rotated/mAP')
FIGURES |= dict.fromkeys(UPRIGHT, 'scene/coco/bbox_mAP_50')
FIGURES |= dict.fromkeys(ROTATED, 'scene/dota/AP50')


def mtp(folder: Path, *arguments: str) -> str:
    """Run a command of mtp, and return what it printed."""
    command = [sys.executable, '-m', 'mtp', *arguments]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE)
    (folder / f'{arguments[0]}.log').write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f'{" ".join(command)} in {folder} failed:\n{done.stdout[-2000:]}')
    return done.stdout


def train(form: str, folder: Path, options: list[str]) -> Outcome:
    """Import, train and judge."""
    given = ['--format', form] if form in ('yolo', 'yolo_obb') else []
    if form in (*UPRIGHT, *ROTATED, 'masks'):
        given += ['--tile', '256', '--overlap', '64']
    mtp(folder, 'data', 'import', 'mine', 'made', '--split', SPLIT, *given)
    begin = time.perf_counter()
    command = ['--data', 'made', '--encoder', ENCODER, '--weights', 'none', '--work-dir', 'run']
    mtp(folder, 'train', *command, *options)
    minutes = (time.perf_counter() - begin) / 60
    config = f'run/config/{ENCODER}.py'
    checkpoint = Path((folder / 'run' / 'last_checkpoint').read_text().strip()).name
    figures = {}
    for name, weights in (('untrained', 'untrained'), ('trained', f'run/{checkpoint}')):
        mtp(folder, 'test', config, weights, '--work-dir', name, '--show-dir', f'{name}/pictures')
        figure = json.loads((folder / name / 'metrics.json').read_text())[FIGURES[form]]
        figures[name] = figure * (100 if form in (*UPRIGHT, *ROTATED) else 1)
    (scalars,) = (folder / 'run').glob('*/vis_data/scalars.json')
    log = [json.loads(line) for line in scalars.read_text().splitlines()]
    return Outcome(
        form=form,
        figure=FIGURES[form],
        trivial=trivial_answer(form, folder / 'made'),
        steps=max(line['step'] for line in log),
        minutes=minutes,
        **figures,
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('forms', nargs='*', default=FORMS, metavar='FORM', help=', '.join(FORMS))
    parser.add_argument('--out', type=Path, required=True, help='a new folder')
    args, options = parser.parse_known_args()
    print('| form | figure | untrained | trivial | trained | steps | minutes |')
    print('| --- | --- | --- | --- | --- | --- | --- |')
    for form in args.forms:
        make(form, args.out.resolve() / form / 'mine')
        out = train(form, args.out.resolve() / form, options)
        print(
            f'| {form} | {out.figure} | {out.untrained:.1f} | {out.trivial:.1f} | '
            f'{out.trained:.1f} | {out.steps:,} | {out.minutes:.1f} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
