"""Bad inputs, each with a function that provokes its message.

``tests/test_bad_inputs.py`` provokes all of them. ``python -m tests.bad_inputs`` writes the list of
the messages into docs/reliability.md.
"""

import json
import pickle
import re
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from mmengine.runner import CheckpointLoader
from PIL import Image

from mtp.data import COCODetection, DOTATiles, SAMRSDataset, SceneDataset
from mtp.data.datasets import xview
from mtp.data.decoding import read_image, read_map, read_size, read_stored
from mtp.data.formats.dota_text import read_dota
from mtp.data.formats.object_xml import CORNER_TAGS, read_fair1m, read_voc
from mtp.data.label_files import read_coco, read_features, read_json
from mtp.data.readers.labelled import LoadClassMap
from mtp.data.readers.pairs import LoadChange
from mtp.data.rotated_labels import read_rotated
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.samrs.to_coco import samrs_to_coco
from mtp.data.transforms import LoadImage
from mtp.engine import shards
from mtp.models.weights.loading import read_state_dict
from mtp.models.weights.safe_loading import load_safely

PAGE = Path(__file__).parents[1] / 'docs' / 'reliability.md'
BEGIN, END = '<!-- made by tests/bad_inputs.py: messages -->', '<!-- end -->'
Provoke = Callable[[Path], object]  # what uses the bad input, given a folder to make it in


class Call:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


# ---- checkpoints ----

WEIGHTS = {'weight': torch.ones(4, 3)}
SAVED = dict(
    meta=dict(iter=5, epoch=0), state_dict=WEIGHTS, optimizer=dict(state={}), message_hub={}
)


def saved(content: object, load: Callable = load_safely, name: str = 'a.pth') -> Provoke:
    def provoke(folder: Path) -> None:
        made = content(folder) if callable(content) else content
        torch.save(made, folder / name)
        load(folder / name)

    return provoke


def file_of(data: bytes, load: Callable, name: str) -> Provoke:
    def provoke(folder: Path) -> None:
        (folder / name).write_bytes(data)
        load(folder / name)

    return provoke


def bomb(folder: Path) -> None:
    with zipfile.ZipFile(folder / 'a.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', bytes(1 << 20))
    load_safely(folder / 'a.pth')


def sharded(damage: Callable[[Path], None]) -> Provoke:
    """Read a folder of shards whose index, or a file, is damaged."""

    def provoke(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of one process
            shards.start_shards(SAVED, folder / 'iter_5.pth')()
        damage(folder / 'iter_5.pth')
        shards.merge_shards(folder / 'iter_5.pth', folder / 'merged.pth')

    return provoke


def index(change: Callable[[Any], object]) -> Provoke:
    """Read a folder of shards whose index was changed."""

    def damage(folder: Path) -> None:
        content = dcp.FileSystemReader(folder).read_metadata()
        content = change(content) or content
        (folder / '.metadata').write_bytes(pickle.dumps(content))

    return sharded(damage)


def elsewhere(content: Any) -> None:
    for info in content.storage_data.values():
        info.relative_path = f'../{info.relative_path}'


def larger(content: Any) -> None:
    for entry in content.state_dict_metadata.values():
        entry.size = torch.Size([1 << 40])


def no_tensor(content: Any) -> None:
    content.state_dict_metadata['state_dict.b'] = dcp.metadata.BytesStorageMetadata()


def progress(**meta: object) -> Provoke:
    content = dict(SAVED, meta=meta)
    return lambda folder: shards.check_progress(content, folder / 'iter_5.pth')


def address(url: str) -> Provoke:
    return lambda folder: CheckpointLoader.load_checkpoint(url)


CHECKPOINTS: dict[str, Provoke] = {
    'missing': lambda folder: load_safely(folder / 'a.pth'),
    'pickle that calls a function': saved(lambda folder: {'a': Call(folder / 'ran')}),
    'pickle alone that calls a function': lambda folder: file_of(
        pickle.dumps(Call(folder / 'ran'), 2), load_safely, 'a.pth'
    )(folder),
    'cut short': file_of(b'PK\3\4' + bytes(100), load_safely, 'a.pth'),
    'safetensors cut short': file_of(
        safetensors.torch.save(WEIGHTS)[:40], read_state_dict, 'a.safetensors'
    ),
    'safetensors with a header of 2^62 bytes': file_of(
        struct.pack('<Q', 1 << 62) + b'{}', read_state_dict, 'a.safetensors'
    ),
    'archive that unpacks to a thousand times its size': bomb,
    'a list': saved([1, 2], read_state_dict),
    'no tensors': saved({'epoch': 3}, read_state_dict),
    'folder whose index calls a function': sharded(
        lambda folder: (folder / '.metadata').write_bytes(pickle.dumps(Call(folder.parent / 'ran')))
    ),
    'folder whose index is cut short': sharded(
        lambda folder: (folder / '.metadata').write_bytes(b'\x80\x04')
    ),
    'folder whose index takes memory without bounds': sharded(
        lambda folder: (folder / '.metadata').write_bytes(b'\x80\x02]r\xff\xff\xff\xff.')
    ),
    'folder whose index holds something else': index(lambda content: [1]),
    'folder with a pickle in place of a tensor': index(no_tensor),
    'folder that names files outside of it': index(elsewhere),
    'folder with tensors of 2^40 values': index(larger),
    'folder without its index': sharded(lambda folder: (folder / '.metadata').unlink()),
    'resumed without an iteration': progress(epoch=0),
    'resumed from iteration -5': progress(iter=-5, epoch=0),
    'on a storage of the network': address('s3://bucket/a.pth'),
    'of a scheme that is unknown': address('gs://bucket/a.pth'),
    'on a web server that does not answer': address('http://127.0.0.1:1/a.pth'),
}

# ---- images ----


def png(width: int, height: int, data: bytes = b'') -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
    )


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack('>HBHHB', 17, 8, height, width, 3) + bytes(9)
    return b'\xff\xd8\xff\xe0\x00\x04ab\xff\xc0' + frame + b'\xff\xd9'


def tiff(width: int, height: int) -> bytes:
    # of a kind that Pillow does not read: seven samples a pixel
    tags = ((256, width), (257, height), (258, 13), (262, 2), (277, 7))
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(4)


def loaded(transform: Any, **results: Any) -> Callable[[Path], object]:
    return lambda path: transform.transform(dict(img_path=str(path), **results))


def pillow(pixels: np.ndarray, name: str, read: Callable[[Path], object]) -> Provoke:
    def provoke(folder: Path) -> None:
        Image.fromarray(pixels).save(folder / name)
        read(folder / name)

    return provoke


def exhausted(folder: Path) -> None:
    """Run out of memory while decoding."""
    with tempfile.TemporaryDirectory():
        from mtp.data import decoding

        decode, decoding.Image.open = decoding.Image.open, _no_memory
        try:
            (folder / 'a.png').write_bytes(png(8, 8))
            read_stored(folder / 'a.png')
        finally:
            decoding.Image.open = decode


def _no_memory(*_: object) -> None:
    raise MemoryError


DEEP = np.full((8, 8), 258, np.uint16)
SEMANTIC = dict(ori_shape=(8, 8), reduce_zero_label=False, seg_fields=[])

IMAGES: dict[str, Provoke] = {
    'missing': lambda folder: read_image(folder / 'a.png'),
    'no image': file_of(b'<!DOCTYPE html>', read_image, 'a.png'),
    'png of 2^31 pixels a side': file_of(png(2**31 - 1, 2**31 - 1), read_image, 'a.png'),
    'png of 30016 x 30016, to prepare': file_of(png(30016, 30016), read_stored, 'a.png'),
    'png of 30016 x 30016, its size alone': file_of(png(30016, 30016), read_size, 'a.png'),
    'png larger than its labels are for': file_of(
        png(2000, 2000), lambda path: read_image(path, (128, 128)), 'a.png'
    ),
    'label map larger than its image': file_of(
        png(2000, 2000), lambda path: read_map(path, (128, 128)), 'a.png'
    ),
    'jpeg of 65500 x 65500': file_of(jpeg(65500, 65500), read_image, 'a.jpg'),
    'jpeg of 65500 x 65500, to finetune': file_of(jpeg(65500, 65500), loaded(LoadImage()), 'a.jpg'),
    'tiff of 2^31 pixels a side': file_of(tiff(2**31 - 1, 2**31 - 1), read_stored, 'a.tif'),
    'png cut short': file_of(png(64, 64, b'x'), read_image, 'a.png'),
    'more memory than there is': exhausted,
    'label map of 16 bits, to finetune': pillow(
        DEEP,
        'a.png',
        lambda path: LoadClassMap(7)._load_seg_map(
            dict(SEMANTIC, seg_map_path=str(path), img_path='a.jpg')
        ),
    ),
    'change map of 16 bits': pillow(
        DEEP,
        'a.png',
        lambda path: LoadChange().transform(dict(SEMANTIC, seg_map_path=str(path), img_path='a')),
    ),
}

# ---- labels ----

GOOD = [[5, 5, 15, 5, 15, 15, 5, 15]]


def coco(read: Callable[[Path], object] = read_coco, **changes: Any) -> Provoke:
    """Read a COCO json with an image and an annotation, number 77, that are changed."""
    image = dict(id=0, file_name='a.png', height=64, width=64)
    annotation = dict(
        id=77, image_id=0, category_id=0, iscrowd=0, area=100, bbox=[5, 5, 10, 10],
        segmentation=GOOD,
    )  # fmt: skip
    for key, value in changes.items():
        entry = image if key in image and key != 'id' else annotation
        entry[key] = value
        if value is None:
            del entry[key]
    content = dict(images=[image], annotations=[annotation], categories=[dict(id=0, name='plane')])

    def provoke(folder: Path) -> None:
        path = folder / 'trainval' / 'sota_rbb_train_ins_segmentation.json'
        path.parent.mkdir()
        path.write_text(json.dumps(content))
        read(path)

    return provoke


def samrs(path: Path) -> None:
    """Open the json's data set as pretraining does."""
    SAMRSDataset('sota', str(path.parents[1]), classes=('plane',), tasks=('instance',))


def detection(path: Path) -> None:
    """Open the json's data set as finetuning does."""
    COCODetection('dior', ann_file=str(path))


def mask(segmentation: object) -> Provoke:
    return coco(samrs, segmentation=segmentation)


def runs(counts: object, size: tuple[int, int] = (64, 64)) -> Provoke:
    return mask(dict(size=size, counts=counts))


def rotated(content: str | bytes, name: str = 'a.txt') -> Provoke:
    data = content.encode() if isinstance(content, str) else content
    return file_of(data, lambda path: read_rotated(path, {'plane': 0}), name)


def corner_xml(corner: str) -> str:
    corners = ''.join(f'<{tag}>{corner}</{tag}>' for tag in CORNER_TAGS)
    return f'<a><object><name>plane</name><robndbox>{corners}</robndbox></object></a>'


def tiles(line: str) -> Provoke:
    def read(path: Path) -> None:
        root = path.parent
        (root / 'a.png').write_bytes(png(64, 64))
        DOTATiles('dota_v1', data_root=str(root), ann_file='.', data_prefix=dict(img_path='.'))

    return file_of(f'1 1 9 1 9 9 1 9 plane 0\n{line}\n'.encode(), read, 'a.txt')


def scenes(text: str) -> Provoke:
    return file_of(
        text.encode(),
        lambda path: SceneDataset('resisc45', ann_file=str(path), data_prefix=str(path.parent)),
        'train.txt',
    )


def samrs_pickle(folder: Path) -> None:
    facts = SUBSETS['sota']
    for name in (facts.images, facts.masks):
        (folder / name).mkdir(parents=True)
    (folder / facts.images / 'a.png').write_bytes(png(8, 8))
    (folder / facts.masks / 'a.pkl').write_bytes(pickle.dumps([Call(folder / 'ran')]))
    raise ValueError(*samrs_to_coco(folder, 'sota', val_fraction=0).bad)


LAUGHS = '<!DOCTYPE a [<!ENTITY b0 "haha">' + ''.join(
    f'<!ENTITY b{i + 1} "{f"&b{i};" * 10}">' for i in range(9)
)
BOX = '1 1 9 1 9 9 1 9 plane 0\n'

LABELS: dict[str, Provoke] = {
    'json cut short': file_of(b'{"images": [', read_json, 'a.json'),
    'json 100,000 deep': file_of(b'[' * 100_000, read_json, 'a.json'),
    'json without images': file_of(b'{}', read_coco, 'a.json'),
    'COCO: an image without its height': coco(height=None),
    'COCO: an image of 10^9 x 10^9 pixels': coco(height=10**9, width=10**9),
    'COCO: an image of -1 pixels': coco(height=-1),
    'COCO: a file name that leads out of the folder': coco(file_name='../../secret/x.png'),
    'COCO: a file name from the root': coco(file_name='/etc/x.png'),
    'COCO: a category that is unknown, to pretrain': coco(samrs, category_id=99),
    'COCO: no bbox, to pretrain': coco(samrs, bbox=None),
    'COCO: a bbox with NaN, to pretrain': coco(samrs, bbox=[5, float('nan'), 10, 10]),
    'COCO: a bbox with NaN, to finetune': coco(detection, bbox=[5, float('nan'), 10, 10]),
    'COCO: a bbox with 1e30, to finetune': coco(detection, bbox=[5, 1e30, 10, 10]),
    'COCO: a bbox with infinity, to finetune': coco(detection, bbox=[5, 5, float('inf'), 10]),
    'COCO: an area that is infinite': coco(detection, area=float('inf')),
    'COCO: iscrowd is a list': coco(iscrowd=[1]),
    'COCO: an annotation of no image': coco(detection, image_id=5),
    'polygon with NaN': mask([[0, 0, float('nan'), 0, 9, 9]]),
    'polygon with infinity': mask([[0, 0, float('inf'), 0, 9, 9]]),
    'polygon with 1e9': mask([[0, 0, 1e9, 0, 9, 9]]),
    'polygon with 1e308': mask([[0, 0, 1e308, 0, 9, 9]]),
    'polygon with -1e9': mask([[0, 0, -1e9, 0, 9, 9]]),
    'polygon far from its image': mask([[0, 0, 900, 0, 9, 9]]),
    'polygon that crosses its image 5,000 times': mask([[0, 0, 64, 64] * 5000]),
    'polygon of two points': mask([[0, 0, 9, 9]]),
    'polygon that is not in a list': mask([0, 0, 9, 0, 9, 9]),
    'run lengths that are too long': runs([10**9, 10**9]),
    'run lengths that are negative': runs([-5, 4101]),
    'run lengths of another image': runs([80, 1], (9, 9)),
    'run lengths whose sum is not the image': runs([4000, 5]),
    'run lengths in text, whose sum is not the image': runs('0Z4'),
    'run lengths in text, damaged': runs('\u00e9~~'),
    'run lengths in text, of 40 bits': runs('oooooooooo0'),
    'run lengths that are none': runs(7),
    'DOTA text with nan': rotated(f'{BOX}nan 1 9 1 9 9 1 9 plane 0'),
    'DOTA text with inf': rotated(f'{BOX}-inf 1 9 1 9 9 1 9 plane 0'),
    'DOTA text with 1e30': rotated(f'{BOX}1e30 1 9 1 9 9 1 9 plane 0'),
    'DOTA text with abc': rotated(f'{BOX}abc 1 9 1 9 9 1 9 plane 0'),
    'DOTA text that is short': rotated(f'{BOX}1 2 3'),
    'DOTA text in latin-1': rotated(b'1 1 9 1 9 9 1 9 a\xe9roport 0'),
    'DOTA text with nan, tiles to finetune': tiles('nan 1 9 1 9 9 1 9 plane 0'),
    'DOTA text with 1e30, tiles to finetune': tiles('1e30 1 9 1 9 9 1 9 plane 0'),
    'DOTA text with 1e300, to prepare': file_of(
        b'1e300 1 9 1 9 9 1 9 plane 0', lambda path: list(read_dota(path)), 'a.txt'
    ),
    'DIOR-R xml with nan': rotated(corner_xml('nan'), 'a.xml'),
    'DIOR-R xml with abc': rotated(corner_xml('abc'), 'a.xml'),
    'DIOR-R xml cut short': rotated(corner_xml('1')[:50], 'a.xml'),
    'DIOR-R xml whose entities grow a billion times': rotated(
        f'{LAUGHS}]><a>&b9;</a>', 'a.xml'
    ),
    'VOC xml with inf, to prepare': file_of(
        b'<a><object><name>plane</name><bndbox><xmin>1</xmin><ymin>inf</ymin><xmax>2</xmax>'
        b'<ymax>3</ymax></bndbox></object></a>',
        lambda path: list(read_voc(path)),
        'a.xml',
    ),
    'FAIR1M xml with 1e300, to prepare': file_of(
        b'<a><object><points>' + b'<point>1e300,1</point>' * 5 + b'</points></object></a>',
        lambda path: list(read_fair1m(path)),
        'a.xml',
    ),
    'xView bounds with nan, to prepare': lambda folder: xview._boxes(
        [(f'{folder}/a.geojson, feature 3', dict(type_id=11, bounds_imcoords='1,2,nan,4'))], 99, 99
    ),
    'geojson without features': file_of(b'[]', read_features, 'a.geojson'),
    'scenes: an image outside of the folder': scenes('../x.png 0'),
    'scenes: a label that is unknown': scenes('x.png 99'),
    'scenes: an empty list': scenes(''),
    'SAMRS pickle that calls a function': samrs_pickle,
}  # fmt: skip

GROUPS = dict(Checkpoints=CHECKPOINTS, Images=IMAGES, Labels=LABELS)


def message(provoke: Provoke, folder: Path) -> str:
    """Provoke an error; return its message, without the folder.

    Raises:
        AssertionError: nothing was raised.
    """
    try:
        provoke(folder)
    except (OSError, ValueError) as error:
        text = str(error).replace(f'{folder}/', '')
        return re.sub(r' object at 0x[0-9a-f]+', ' object', text)
    raise AssertionError('it was taken')


def table() -> str:
    """Return the list for the docs."""
    lines = []
    for title, cases in GROUPS.items():
        lines += [f'### {title}', '', '| input | message |', '| --- | --- |']
        for name, provoke in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                text = message(provoke, Path(folder)).replace('|', '\\|').replace('\n', ' ')
            lines.append(f'| {name} | `{text.replace("`", "")}` |')
        lines.append('')
    return '\n'.join(lines)


def filled(page: str) -> str:
    """Return the page of the docs with the list of today."""
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END, page.index(BEGIN))
    return f'{page[:begin]}\n\n{table()}\n{page[end:]}'


if __name__ == '__main__':
    PAGE.write_text(filled(PAGE.read_text()))
