"""Scene classification: EuroSAT and NWPU-RESISC45."""
from collections.abc import Sequence
from pathlib import Path

from mtp.data.facts.scenes import SCENES
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import by_lists, copy_image, deal, images_in, read_lists
from mtp.files import whole

# Neumann et al. (2019) published lists of 16200, 5400 and 5400 images; they come apart from the
# archive, and where they are missing every class is divided by the same shares.
EUROSAT_SHARES = dict(train=0.6, val=0.2, test=0.2)
EUROSAT_LISTS = {split: f'eurosat-{split}.txt' for split in EUROSAT_SHARES}
RESISC_SHARES = dict(train=0.2, valid=0.8)
RESISC_LISTS = {split: f'{split}_labels_28_mtp.txt' for split in RESISC_SHARES}


def eurosat(src: Path, dst: Path) -> Report:
    """``2750/<class>/*.jpg`` -> ``{train,val,test}/<class>/*.jpg``, copied.

    Uses the lists ``eurosat-{train,val,test}.txt`` in ``src`` where they are, else a fixed
    division of each class. The recipe trains on ``train`` and measures on ``val``.
    """
    report = Report()
    images = _by_class(folder(src, '2750', 'EuroSAT_RGB', '.'), SCENES['eurosat'].classes, report)
    lists = {split: src / name for split, name in EUROSAT_LISTS.items()}
    if any(path.is_file() for path in lists.values()):
        splits = by_lists(lists, images, report)
    else:
        splits = _stratified(images, EUROSAT_SHARES)
    for split in EUROSAT_SHARES:
        items = [(path, dst / split / path.parent.name / path.name)
                 for name, path in images.items() if splits.get(name) == split]
        process(copy_image, items, f'{split} images', report, _source)
    return report


def resisc45(src: Path, dst: Path) -> Report:
    """``NWPU-RESISC45/<class>/*.jpg`` -> ``all_img/*.jpg`` and the lists of the recipe.

    The lists ``mtp/{train,valid}_labels_28_mtp.txt`` have lines "<file name> <label>". Those
    found in ``src`` (or ``src/mtp``) decide the split, else a fixed division of each class.
    """
    report = Report()
    classes = SCENES['resisc45'].classes
    images = _by_class(folder(src, 'NWPU-RESISC45', '.'), classes, report)
    lists = {split: next((path for path in (src / 'mtp' / name, src / name) if path.is_file()),
                         src / name) for split, name in RESISC_LISTS.items()}
    if any(path.is_file() for path in lists.values()):
        splits = by_lists(lists, images, report)
        for _, place, line in read_lists(lists):
            name, _, label = line.partition(' ')
            image = images.get(Path(name).stem)
            if image and label.strip() != str(classes.index(image.parent.name)):
                report.bad.append(f'{place}: {line!r}, but the label of {image.parent.name} is '
                                  f'{classes.index(image.parent.name)}')
                splits.pop(image.stem, None)
    else:
        splits = _stratified(images, RESISC_SHARES)
    for split, name in RESISC_LISTS.items():
        items = [(path, dst / 'all_img' / path.name) for name, path in images.items()
                 if splits.get(name) == split]
        copied = process(copy_image, items, f'{split} images', report, _source)
        with whole(dst / 'mtp' / name) as unfinished:
            unfinished.write_text(''.join(
                f'{path.name} {classes.index(images[path.stem].parent.name)}\n'
                for path in copied))
    return report


def _by_class(root: Path, classes: Sequence[str], report: Report) -> dict[str, Path]:
    """Stem -> image, of a folder for each class; other folders go to ``report.bad``."""
    there = {path.name for path in root.iterdir() if path.is_dir()}
    if not there & set(classes):
        raise FileNotFoundError(f'{root} has no folder of any class ({", ".join(classes[:3])}, '
                                '...): unpack the archive there')
    report.bad += [f'{root / name}: unknown class; known are {", ".join(classes)}'
                   for name in sorted(there - set(classes))]
    report.bad += [f'{root / name}: no folder of this class' for name in classes
                   if name not in there]
    images = {}
    for name in classes:
        for stem, path in (images_in(root / name, report) if name in there else {}).items():
            if stem in images:
                report.bad.append(f'{path}: {images[stem]} has the same name')
            else:
                images[stem] = path
    return images


def _stratified(images: dict[str, Path], shares: dict[str, float]) -> dict[str, str]:
    classes = {}
    for name, path in images.items():
        classes.setdefault(path.parent.name, []).append(name)
    splits = {}
    for names in classes.values():
        splits |= deal(names, shares)
    return splits


def _source(item: tuple[Path, Path]) -> Path:
    return item[0]


PREPARE = {'eurosat': eurosat, 'resisc45': resisc45}
