"""OSCD: urban changes in 24 cities, Sentinel-2."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mtp.data.datasets.base import CHANGE, DataSet, pair_splits
from mtp.data.label_files import read_lines
from mtp.data.prepare.base import Report, folder
from mtp.data.prepare.change_detection import Scene, cut_scenes
from mtp.data.synthetic.change_pairs import draw_pair
from mtp.data.synthetic.drawing import write_image
from mtp.data.values import check_name
from mtp.files import write_text

TITLE = 'Onera Satellite Change Detection dataset - '
# The publisher's split, from the lists that come with the data.
CITIES = {
    'train': ('aguasclaras', 'bercy', 'bordeaux', 'nantes', 'paris', 'rennes', 'saclay_e',
              'abudhabi', 'cupertino', 'pisa', 'beihai', 'hongkong', 'beirut', 'mumbai'),
    'test': ('brasilia', 'montpellier', 'norcia', 'rio', 'saclay_w', 'valencia', 'dubai',
             'lasvegas', 'milano', 'chongqing'),
}  # fmt: skip
# Red, green and blue bands of Sentinel-2, and the values that become 0 and 255. They are those of
# SeCo (Manas et al., 2021), whose 827 and 385 tiles of 96 pixels the published runs used.
BANDS = {'B04': (426, 3698), 'B03': (667, 2969), 'B02': (885, 2620)}


def prepare(src: Path, dst: Path) -> Report:
    """Cut tiles of 96 pixels: ``{train,test}/{A,B,label}/*.png``.

    Cities are split by ``train.txt`` and ``test.txt`` beside them or, without these files, by the
    publisher's lists, which mtp includes. The recipe validates on ``test``.
    """
    report = Report()
    images = folder(src, f'{TITLE}Images', 'images')
    labels = [
        path
        for part in (f'{TITLE}Train Labels', f'{TITLE}Test Labels', 'train_labels', 'test_labels')
        if (path := src / part).is_dir()
    ]
    scenes = []
    for split, city, place in _cities(images):
        if not (images / city).is_dir():
            report.bad.append(f'{place}: no folder {images / city}')
            continue
        dates = _date(images / city, 1), _date(images / city, 2)
        found = [
            path
            for root in labels
            for path in (root / city / 'cm' / f'{city}-cm.tif', root / city / 'cm' / 'cm.png')
            if path.is_file()
        ]
        label = found[0] if found else None
        # the png files are drawings, some with soft edges
        values = ((1, 2),) if label and label.suffix == '.tif' else ()
        scenes.append(Scene(city, dates, label, values, split, tuple(BANDS.values())))
    return cut_scenes(scenes, dst, 96, report)


def _cities(images: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the split and the name of each city, and the file and line that say so."""
    for split, cities in CITIES.items():
        path = images / f'{split}.txt'
        if path.is_file():
            for place, line in read_lines(path):
                yield from (
                    (split, check_name(city.strip(), place), place)
                    for city in line.split(',')
                    if city.strip()
                )
        else:
            yield from ((split, city, f'{split} city {city}') for city in cities)


def _date(city: Path, number: int) -> tuple[Path, ...]:
    """Find the files of a date: one image, or three bands; none if they are missing."""
    pair = city / 'pair' / f'img{number}.png'
    if pair.is_file():
        return (pair,)
    bands = [sorted((city / f'imgs_{number}_rect').glob(f'*{band}.tif')) for band in BANDS]
    return tuple(paths[0] for paths in bands) if all(bands) else ()


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write all cities, 190 x 180 pixels; every second one has bands instead of colour images."""
    root, rng = Path(root), np.random.default_rng(seed)
    for split, cities in CITIES.items():
        write_text(root / f'{TITLE}Images' / f'{split}.txt', ','.join(cities))
        for number, city in enumerate(cities):
            *dates, changed = (part[:, :180] for part in draw_pair(rng, 190, 8))
            where = root / f'{TITLE}Images' / city
            for date, image in enumerate(dates, 1):
                write_text(where / 'dates.txt', 'date_1: 20160101\ndate_2: 20180101\n')
                if number % 2 == 0:
                    write_image(where / 'pair' / f'img{date}.png', image)
                    continue
                for channel, (band, (low, high)) in zip((2, 1, 0), BANDS.items()):
                    values = low + np.clip(image[..., channel], 0, 255) / 255 * (high - low)
                    write_image(
                        where / f'imgs_{date}_rect' / f'S2A_{band}.tif', values.astype(np.uint16)
                    )
            labels = root / f'{TITLE}{split.capitalize()} Labels' / city / 'cm'
            write_image(labels / f'{city}-cm.tif', changed + np.uint8(1))
            write_image(
                labels / 'cm.png', cv2.cvtColor(changed * np.uint8(255), cv2.COLOR_GRAY2BGRA)
            )
    return root


DATASET = DataSet(
    title='OSCD (RGB)',
    **CHANGE,
    source='R. Caye Daudt et al., IEEE DataPort: Onera Satellite Change Detection, the archives of '
    'images, train labels and test labels',
    licence='CC BY-NC-SA 4.0; modified Copernicus data',
    size='24 pairs of about 350 to 1200 px, Sentinel-2; 14 / 10 cities, 827 / 385 tiles of 96',
    layout='"Onera Satellite Change Detection dataset - Images"/<city>/pair/img{1,2}.png (or '
    'imgs_{1,2}_rect/*B0{4,3,2}.tif), train.txt and test.txt in it; "... - Train Labels" '
    'and "... - Test Labels"/<city>/cm/<city>-cm.tif',
    citation='R. Caye Daudt, B. Le Saux, A. Boulch, Y. Gousseau: Urban Change Detection for '
    'Multispectral Earth Observation Using Convolutional Neural Networks. IGARSS 2018',
    splits=pair_splits('train', 'test'),
    prepare=prepare,
    synthesise=synthesise,
)
