"""Parsers of files from outside, each with the small files that are damaged to attack it.

The files are in ``corpus/<name of the target>``; ``python -m tests.fuzz --corpus`` makes them.
"""

import io
import json
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image

from mtp.data import LoadCrop, PackedDataset, PackLabels, SAMRSDataset, SceneDataset
from mtp.data.datasets import xview
from mtp.data.decoding import read_image, read_map, read_size, read_stored
from mtp.data.formats import object_xml
from mtp.data.formats.dota_text import read_dota
from mtp.data.index import DIGESTS
from mtp.data.label_files import read_features
from mtp.data.multitask_dataset import seeded
from mtp.data.packed import pack
from mtp.data.rotated_labels import read_rotated
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.samrs.to_coco import _convert_pickle, image_entry, mask_entries
from mtp.data.transforms import LoadImage
from mtp.engine import shards
from mtp.models.weights.loading import read_state_dict
from mtp.models.weights.safe_loading import load_safely
from tests.bad_inputs import BOX, SAVED, WEIGHTS, corner_xml, detection, jpeg, png, samrs, tiff
from tests.data.small import CLASSES, make_subset

CORPUS = Path(__file__).with_name('corpus')
TOKENS = [
    *(b'nan', b'inf', b'-1', b'0', b'1e308', b'99999999999999999999', b'0.5', b'null', b'true'),
    *(b'[]', b'{}', b'""', b'../x', b'\xff\xfe', b'\0\0\0\0', b'\xff\xff\xff\x7f', b'\n', b' '),
]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        name: name that a damaged file gets, or that of the file in a folder that is damaged; ``{}``
            stands for the name of the corpus's file.
        read: function that reads it, given its path.
        make: function that makes the files of the corpus: name -> content.
        around: function that makes what has to be around the file, given its folder.
    """

    name: str
    read: Callable[[Path], object]
    make: Callable[[], dict[str, bytes]]
    around: Callable[[Path], object] = lambda folder: None


def attack(target: Target, file: str, data: bytes) -> None:
    """Give a parser a file.

    Args:
        target: the parser.
        file: name of the corpus's file that was damaged.
        data: its content.

    Raises:
        AssertionError: it raised an error that is not one line with the name of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.name.format(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        target.around(Path(folder))
        path.write_bytes(data)
        try:
            target.read(path)
        except (OSError, ValueError) as error:
            text = str(error)
            assert path.name in text or path.parent.name in text, f'it names no file: {text!r}'
            assert '\n' not in text, f'it has several lines: {text!r}'


@st.composite
def damaged(draw: Any, name: str) -> tuple[str, bytes]:
    """Draw a file of a target's corpus, its name and its damaged content, or at times any bytes."""
    path = draw(st.sampled_from(sorted((CORPUS / name).iterdir())))
    if draw(st.integers(0, 15)) == 0:
        return path.name, draw(st.binary(max_size=200))
    data = path.read_bytes()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(('number', 'cut', 'bit', 'token', 'remove', 'repeat', 'bytes')))
        if kind == 'number' and (found := list(re.finditer(rb'-?\d+(\.\d+)?', data))):
            place = found[draw(st.integers(0, len(found) - 1))]
            token = draw(st.sampled_from(TOKENS))
            data = data[: place.start()] + token + data[place.end() :]
        elif kind == 'cut':
            data = data[:at]
        elif kind == 'bit' and at < len(data):
            flipped = data[at] ^ 1 << draw(st.integers(0, 7))
            data = data[:at] + bytes([flipped]) + data[at + 1 :]
        elif kind == 'token':
            data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
        elif kind == 'bytes':
            some = draw(st.binary(min_size=1, max_size=8))
            data = data[:at] + some + data[at + len(some) :]
        else:
            length = draw(st.integers(1, 40))
            data = (
                data[:at]
                + (data[at : at + length] * 2 if kind == 'repeat' else b'')
                + (data[at + length :])
            )
    return path.name, data


# ---- the files of the corpus ----


def mask() -> np.ndarray:
    found = np.zeros((64, 64), np.uint8)
    found[5:15, 5:15] = 1
    return found


def run_lengths() -> dict:
    return dict(size=[64, 64], counts=[325, *[10, 54] * 9, 10, 3185])


def coco() -> dict[str, bytes]:
    polygons = [[5, 5, 15, 5, 15, 15, 5, 15]]
    compressed = mask_entries(run_lengths())['segmentation']
    files = {}
    for name, segmentation in (
        ('polygons', polygons),
        ('runs', run_lengths()),
        ('rle', compressed),
    ):
        annotation = dict(
            id=77, image_id=0, category_id=0, iscrowd=0, area=100, bbox=[5, 5, 10, 10],
            segmentation=segmentation,
        )  # fmt: skip
        images = [dict(image_entry('a.png', 64, 64), id=0)]
        content = dict(
            images=images, annotations=[annotation], categories=[dict(id=0, name='plane')]
        )
        files[name] = json.dumps(content).encode()
    return files


def voc() -> dict[str, bytes]:
    box = '<xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax>'
    size = '<size><width>64</width><height>64</height><depth>3</depth></size>'
    text = f'<a>{size}<object><name>plane</name><bndbox>{box}</bndbox></object></a>'
    return dict(one=text.encode())


def fair1m() -> dict[str, bytes]:
    points = ''.join(f'<point>{p}</point>' for p in ('1,1', '9,1', '9,9', '1,9', '1,1'))
    name = '<possibleresult><name>Boeing 737</name></possibleresult>'
    return dict(one=f'<a><object>{name}<points>{points}</points></object></a>'.encode())


def geojson() -> dict[str, bytes]:
    features = [dict(properties=dict(type_id=11, bounds_imcoords='1,2,30,40', image_id='a.tif'))]
    return dict(one=json.dumps(dict(type='FeatureCollection', features=features)).encode())


def samrs_pickles() -> dict[str, bytes]:
    rle = mask_entries(run_lengths())['segmentation']
    objects = [dict(label=np.int64(0), mask=dict(rle, counts=rle['counts'].encode()))]
    objects += [dict(label=1, mask=rle)]
    return {f'protocol{p}': pickle.dumps(objects, p) for p in (2, 4)}


def images() -> dict[str, bytes]:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    files = dict(header=png(8, 8), huge=png(2**31 - 1, 9), frame=jpeg(65500, 65500))
    files['tiff_header'] = tiff(2**31 - 1, 9)
    for kind, content in (
        ('png', pixels),
        ('jpeg', pixels),
        ('tiff', pixels),
        ('bmp', pixels),
        ('gif', pixels[..., 0]),
    ):
        buffer = io.BytesIO()
        Image.fromarray(content).save(buffer, kind)
        files[kind] = buffer.getvalue()
    for name, content in (('grey', pixels[..., 0]), ('deep', pixels[..., 0].astype(np.uint16))):
        buffer = io.BytesIO()
        Image.fromarray(content).save(buffer, 'png')
        files[name] = buffer.getvalue()
    return files


def checkpoints() -> dict[str, bytes]:
    files = {}
    for name, legacy in (('zip', True), ('legacy', False)):
        buffer = io.BytesIO()
        torch.save(SAVED, buffer, _use_new_zipfile_serialization=legacy)
        files[name] = buffer.getvalue()
    return files


@cache
def _folders() -> Path:
    """Return a folder with an indexed data set, its packed form and a folder of shards."""
    folder = Path(tempfile.mkdtemp())
    open_small(make_subset(folder / 'data', sizes=((64, 64),)))
    objects = [('ship', (8, 6, 9, 5), 25), ('plane', (4, 12, 5, 4), -50)]
    source = open_small(make_subset(folder / 'tiny', sizes=((16, 16), (11, 15)), objects=objects))
    with mock.patch('mtp.data.packed._PAGE', 1):  # padding is no place to attack
        pack(source, folder / 'packed', workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of one process
        shards.start_shards(SAVED, folder / 'iter_5.pth')()
    return folder


def open_small(root: Path) -> SAMRSDataset:
    return SAMRSDataset('sota', str(root), classes=CLASSES)


def copied(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(_folders() / name, folder, dirs_exist_ok=True)


def files_of(folder: str, pattern: str) -> Callable[[], dict[str, bytes]]:
    return lambda: {
        path.name.lstrip('.'): path.read_bytes() for path in (_folders() / folder).rglob(pattern)
    }


# ---- how they are read ----


def pictures(path: Path) -> None:
    """Read an image with each reader; what one refuses the next may take."""
    errors = []
    for read in (
        read_image,
        read_map,
        read_stored,
        read_size,
        lambda path: LoadImage().transform(dict(img_path=str(path))),
    ):
        try:
            read(path)
        except ValueError as error:
            errors.append(error)
    for error in errors:
        raise error


def one_pickle(path: Path) -> None:
    names = ('a', 'a.png')
    result = _convert_pickle(path.parents[2], SUBSETS['sota'], 2, names)
    if isinstance(result, str):
        raise ValueError(' '.join(result.split()))


def picture_of_pickle(folder: Path) -> None:
    where = folder / SUBSETS['sota'].images
    where.mkdir(parents=True)
    (where / 'a.png').write_bytes(png(64, 64))


def both(*reads: Callable[[Path], object]) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        errors = []
        for one in reads:
            try:
                one(path)
            except (OSError, ValueError) as error:
                errors.append(error)
        for error in errors:
            raise error

    return read


def bounds(path: Path) -> None:
    features = [
        (f'{path}, feature {i}', f.get('properties')) for i, f in enumerate(read_features(path))
    ]
    xview._boxes([(place, f) for place, f in features if isinstance(f, dict)], 64, 64)


def packed_samples(path: Path) -> None:
    dataset = PackedDataset(str(path), pipeline=[LoadCrop(size=16), PackLabels()])
    with seeded(0):
        for number in range(len(dataset)):
            dataset.prepare_data(number)


def packed_shard(path: Path) -> None:
    """Read a shard of any size, as if it had been packed so."""
    description = path.with_name('pack.json')
    content = dict(json.loads(description.read_text()), sizes=[path.stat().st_size])
    description.write_text(json.dumps(content))
    packed_samples(path.parent)


def packed_without_digests(folder: Path) -> None:
    """Make a packed folder as release 0.1 did, whose index nothing verifies."""
    copied('packed')(folder)
    (folder / 'index' / DIGESTS).unlink()


def index_again(path: Path) -> None:
    """Put a file into the place of one of an index; whatever it holds, what is read is the same."""
    expected = open_small(path.parent).index[0]
    (made,) = (path.parent / '.mtp_index').iterdir()
    path.replace(made / path.name)
    found = open_small(path.parent).index
    assert len(found) == 1
    for key, value in vars(expected).items():
        assert np.array_equal(getattr(found[0], key), value), key


def without_index(folder: Path) -> None:
    copied('data')(folder)
    shutil.rmtree(folder / '.mtp_index')


def scenes(path: Path) -> None:
    dataset = SceneDataset(
        'resisc45',
        ann_file=str(path),
        data_prefix=str(path.parent),
        serialize_data=False,  # which collects garbage
    )
    for record in map(dataset.get_data_info, range(len(dataset))):
        assert Path(record['img_path']).is_relative_to(path.parent)
        assert 0 <= record['gt_label'] < len(dataset.CLASSES)


def merged(path: Path) -> None:
    shards.merge_shards(path.parent, path.parent.with_suffix('.merged'))


TARGETS: dict[str, Target] = {
    'coco': Target('trainval/sota_rbb_train_ins_segmentation.json', both(samrs, detection), coco),
    'dota': Target(
        'a.txt',
        both(
            lambda path: read_rotated(path, {'plane': 0}),
            lambda path: list(read_dota(path)),
        ),
        lambda: dict(two=f'imagesource:x\ngsd:0.1\n{BOX}{BOX}'.encode()),
    ),
    'dior_r': Target(
        'a.xml',
        lambda path: read_rotated(path, {'plane': 0}),
        lambda: dict(one=corner_xml('1.5').encode()),
    ),
    'voc': Target(
        'a.xml',
        lambda path: list(object_xml.read_voc(path, (64, 64))),
        voc,
    ),
    'fair1m': Target('a.xml', lambda path: list(object_xml.read_fair1m(path)), fair1m),
    'xview': Target('a.geojson', bounds, geojson),
    'samrs': Target(f'{SUBSETS["sota"].masks}/a.pkl', one_pickle, samrs_pickles, picture_of_pickle),
    'images': Target('a.png', pictures, images),
    'checkpoint': Target('a.pth', both(load_safely, read_state_dict), checkpoints),
    'safetensors': Target(
        'a.safetensors',
        read_state_dict,
        lambda: dict(one=safetensors.torch.save(WEIGHTS)),
    ),
    'shard_metadata': Target(
        'iter_5.pth/.metadata',
        merged,
        files_of('iter_5.pth', '.metadata'),
        lambda folder: copied('iter_5.pth')(folder / 'iter_5.pth'),
    ),
    'packed': Target(
        'pack.json',
        lambda path: packed_samples(path.parent),
        files_of('packed', 'pack.json'),
        copied('packed'),
    ),
    'packed_places': Target(
        'places.npy',
        lambda path: packed_samples(path.parent),
        files_of('packed', 'places.npy'),
        copied('packed'),
    ),
    'packed_shard': Target(
        'shard_00000.bin', packed_shard, files_of('packed', '*.bin'), copied('packed')
    ),
    'packed_index': Target(
        'index/{}',
        lambda path: packed_samples(path.parents[1]),
        files_of('packed/index', '*.npy'),
        packed_without_digests,
    ),
    'index': Target('{}', index_again, files_of('data/.mtp_index', '*.*'), without_index),
    'scenes': Target(
        'train.txt',
        scenes,
        lambda: dict(two=b'airplane/airplane_001.jpg 0\nwetland/wetland_700.jpg 44\n'),
    ),
}
