"""NWPU-RESISC45: 45 classes of scenes, 256 pixels."""

from pathlib import Path

from mtp.data.datasets.base import DataSet, Split
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.class_folders import by_class, stratified
from mtp.data.prepare.images import by_lists, copy_image, read_lists
from mtp.data.synthetic.drawing import draw_classes
from mtp.files import write_text

SHARES = dict(train=0.2, valid=0.8)
LISTS = {split: f'{split}_labels_28_mtp.txt' for split in SHARES}


def prepare(src: Path, dst: Path) -> Report:
    """Copy to ``all_img/*.jpg``; write the lists ``mtp/{train,valid}_labels_28_mtp.txt``.

    A line of a list is ``<file name> <label>``. The images are divided by the source's lists or,
    without them, by a fixed seed.
    """
    report = Report()
    classes = DATASET.classes
    images = by_class(folder(src, 'NWPU-RESISC45', '.'), classes, report)
    lists = {
        split: next(
            (path for path in (src / 'mtp' / name, src / name) if path.is_file()), src / name
        )
        for split, name in LISTS.items()
    }
    if any(path.is_file() for path in lists.values()):
        splits = by_lists(lists, images, report)
        for _, place, line in read_lists(lists):
            name, _, label = line.partition(' ')
            image = images.get(Path(name).stem)
            if image and label.strip() != str(classes.index(image.parent.name)):
                report.bad.append(
                    f'{place}: {line!r}, but the label of {image.parent.name} is '
                    f'{classes.index(image.parent.name)}'
                )
                splits.pop(image.stem, None)
    else:
        splits = stratified(images, SHARES)
    for split, name in LISTS.items():
        items = [
            (path, dst / 'all_img' / path.name)
            for name, path in images.items()
            if splits.get(name) == split
        ]
        copied = process(copy_image, items, f'{split} images', report)
        write_text(
            dst / 'mtp' / name,
            ''.join(
                f'{path.name} {classes.index(images[path.stem].parent.name)}\n' for path in copied
            ),
        )
    return report


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write five images of 96 pixels (original: 256) per class, without lists."""
    draw_classes(Path(root) / 'NWPU-RESISC45', DATASET.classes, 5, 96, seed)
    return Path(root)


DATASET = DataSet(
    title='NWPU-RESISC45',
    task='classification',
    classes=(
        'airplane',
        'airport',
        'baseball_diamond',
        'basketball_court',
        'beach',
        'bridge',
        'chaparral',
        'church',
        'circular_farmland',
        'cloud',
        'commercial_area',
        'dense_residential',
        'desert',
        'forest',
        'freeway',
        'golf_course',
        'ground_track_field',
        'harbor',
        'industrial_area',
        'intersection',
        'island',
        'lake',
        'meadow',
        'medium_residential',
        'mobile_home_park',
        'mountain',
        'overpass',
        'palace',
        'parking_lot',
        'railway',
        'railway_station',
        'rectangular_farmland',
        'river',
        'roundabout',
        'runway',
        'sea_ice',
        'ship',
        'snowberg',
        'sparse_residential',
        'stadium',
        'storage_tank',
        'tennis_court',
        'terrace',
        'thermal_power_station',
        'wetland',
    ),
    source='G. Cheng et al., Northwestern Polytechnical University: NWPU-RESISC45.rar',
    licence='not stated; for research',
    size='31500 images of 256 px, 700 a class; 6300 / 25200',
    layout='NWPU-RESISC45/<class>/*.jpg (or the class folders themselves); '
    '{train,valid}_labels_28_mtp.txt beside it or in mtp/, lines "<image> <label>", else '
    'each class is divided 20:80 by a fixed seed',
    citation='G. Cheng, J. Han, X. Lu: Remote Sensing Image Scene Classification: Benchmark and '
    'State of the Art. Proceedings of the IEEE 105, 2017',
    splits=tuple(Split(split, 'all_img', listed=f'mtp/{name}') for split, name in LISTS.items()),
    prepare=prepare,
    synthesise=synthesise,
)
