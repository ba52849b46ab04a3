"""EuroSAT: land use in Sentinel-2 images of 64 pixels."""

from pathlib import Path

from mtp.data.datasets.base import DataSet, Split
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.class_folders import by_class, stratified
from mtp.data.prepare.images import by_lists, copy_image
from mtp.data.synthetic.drawing import draw_classes

# Neumann et al. (2019) published lists of 16200, 5400 and 5400 images, separately from the archive.
# Without them, every class is divided in the same proportions.
SHARES = dict(train=0.6, val=0.2, test=0.2)
LISTS = {split: f'eurosat-{split}.txt' for split in SHARES}


def prepare(src: Path, dst: Path) -> Report:
    """Copy to ``{train,val,test}/<class>/*.jpg``.

    The images are divided by the lists or, without them, by a fixed seed. The recipe trains on
    ``train`` and evaluates on ``val``.
    """
    report = Report()
    images = by_class(folder(src, '2750', 'EuroSAT_RGB', '.'), DATASET.classes, report)
    lists = {split: src / name for split, name in LISTS.items()}
    if any(path.is_file() for path in lists.values()):
        splits = by_lists(lists, images, report)
    else:
        splits = stratified(images, SHARES)
    for split in SHARES:
        items = [
            (path, dst / split / path.parent.name / path.name)
            for name, path in images.items()
            if splits.get(name) == split
        ]
        process(copy_image, items, f'{split} images', report)
    return report


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write ten images of 64 pixels per class, without lists."""
    draw_classes(Path(root) / '2750', DATASET.classes, 10, 64, seed)
    return Path(root)


DATASET = DataSet(
    title='EuroSAT (RGB)',
    task='classification',
    classes=(
        'AnnualCrop',
        'Forest',
        'HerbaceousVegetation',
        'Highway',
        'Industrial',
        'Pasture',
        'PermanentCrop',
        'Residential',
        'River',
        'SeaLake',
    ),
    source='P. Helber et al., DFKI: EuroSAT on GitHub and Zenodo, EuroSAT.zip or EuroSAT_RGB.zip. '
    'The lists of the split (M. Neumann et al., 2019) are published separately, as '
    'eurosat-train.txt, eurosat-val.txt, eurosat-test.txt',
    licence='MIT; Copernicus Sentinel data',
    size='27000 images of 64 px, Sentinel-2; 16200 / 5400 / 5400',
    layout='2750/<class>/*.jpg (or EuroSAT_RGB/, or the class folders themselves); '
    'eurosat-{train,val,test}.txt beside it, else each class is divided 60:20:20 by a '
    'fixed seed',
    citation='P. Helber, B. Bischke, A. Dengel, D. Borth: EuroSAT: A Novel Dataset and Deep '
    'Learning Benchmark for Land Use and Land Cover Classification. IEEE JSTARS 12, 2019',
    splits=(Split('train', 'train'), Split('val', 'val')),
    prepare=prepare,
    synthesise=synthesise,
)
