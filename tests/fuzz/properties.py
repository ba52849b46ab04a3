"""Properties that hold for any input: each a function of values that hypothesis draws."""

import math
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmrotate.structures import RotatedBoxes
from torch import Tensor

from mtp.data import Crop, FilterInstances, Flip, LoadCrop, PackLabels, Resize
from mtp.data.box_rules import find_unusable
from mtp.data.decoding import read_image, read_map
from mtp.data.formats.dota_text import read_dota
from mtp.data.formats.object_xml import CORNER_TAGS
from mtp.data.index import BytesColumn, Column, Entry, Index, verify_index, write_index
from mtp.data.multitask_dataset import seeded
from mtp.data.packed import map_runs
from mtp.data.rotated_labels import read_rotated
from mtp.data.run_lengths import Axis, crop_map, crop_masks, decode_mask, encode_mask, read_counts
from mtp.data.samrs.to_coco import dota_line
from mtp.data.tally import Tally
from mtp.models.weights.loading import read_state_dict
from mtp.models.weights.safe_loading import load_safely
from mtp.ops import box_iou_rotated, nms_rotated
from tests.fuzz.targets import TARGETS, _folders, attack, damaged, open_small

PROPERTIES: dict[str, Callable[[], None]] = {}
SIDES = st.integers(1, 40)
DIRECTIONS = st.sampled_from(('horizontal', 'vertical', 'diagonal'))


def property_of(*args: Any, **values: Any) -> Callable:
    """Register a function as a property."""

    def register(function: Callable) -> Callable:
        PROPERTIES[function.__name__] = given(*args, **values)(function)
        return function

    return register


# ---- transforms ----


def disjoint_objects(draw: Any, height: int, width: int) -> list[np.ndarray]:
    """Draw masks of up to four rectangles, each in a strip of the image of its own."""
    masks = []
    edges = sorted(draw(st.sets(st.integers(0, width), max_size=5)))
    for left, right in zip(edges, edges[1:]):
        top = draw(st.integers(0, height - 1))
        mask = np.zeros((height, width), np.uint8)
        mask[top : draw(st.integers(top + 1, height)), left:right] = 1
        masks.append(mask)
    return masks


def tight(mask: np.ndarray) -> list[int]:
    rows, columns = mask.nonzero()
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@st.composite
def samples(draw: Any) -> dict:
    """Draw an image with objects, as the loading transforms leave it."""
    height, width = draw(SIDES), draw(SIDES)
    masks = disjoint_objects(draw, height, width)
    owner = np.zeros((height, width), np.uint8)
    for number, mask in enumerate(masks, 1):
        owner[mask > 0] = number
    boxes = np.array([tight(mask) for mask in masks], np.float32).reshape(-1, 4)
    rotated = draw(rotated_boxes(max_boxes=4, size=40.0))
    return dict(
        tasks=('semantic', 'instance', 'rotated'),
        img=np.repeat(owner[..., None], 3, 2),
        img_shape=(height, width),
        ori_shape=(height, width),
        gt_seg_map=owner,
        seg_fields=['gt_seg_map'],
        gt_bboxes=HorizontalBoxes(boxes),
        gt_bboxes_labels=np.arange(len(masks)),
        gt_ignore_flags=np.zeros(len(masks), bool),
        gt_masks=BitmapMasks(masks, height, width),
        gt_rotated_bboxes=RotatedBoxes(rotated.float()),
        gt_rotated_bboxes_labels=np.zeros(len(rotated), np.int64),
    )


def copy(results: dict) -> dict:
    return {
        key: value.copy()
        if isinstance(value, np.ndarray)
        else value.clone()
        if isinstance(value, HorizontalBoxes | RotatedBoxes)
        else value
        for key, value in results.items()
    }


@property_of(samples(), DIRECTIONS)
def flipping_twice_is_the_identity(sample: dict, direction: str) -> None:
    flip = Flip(prob=1.0, direction=direction)
    found = flip.transform(flip.transform(copy(sample)))
    for key in ('img', 'gt_seg_map'):
        assert np.array_equal(found[key], sample[key]), key
    assert np.array_equal(found['gt_masks'].masks, sample['gt_masks'].masks)
    assert torch.equal(found['gt_bboxes'].tensor, sample['gt_bboxes'].tensor)
    ours, theirs = (r['gt_rotated_bboxes'].tensor.double() for r in (found, sample))
    torch.testing.assert_close(ours[:, :4], theirs[:, :4], atol=1e-4, rtol=1e-6)
    turn = (ours[:, 4] - theirs[:, 4]) / math.pi  # a box turned by half a circle is the same
    assert ((turn - turn.round()).abs() < 1e-5).all()


STEPS = st.one_of(
    st.tuples(st.just('flip'), DIRECTIONS),
    st.tuples(st.just('resize'), st.tuples(st.integers(2, 60), st.integers(2, 60))),
    st.tuples(st.just('crop'), st.integers(1, 50)),
)


@property_of(samples(), st.lists(STEPS, max_size=5), st.integers(0, 2**32))
def boxes_masks_and_maps_agree_after_any_chain(sample: dict, steps: list, seed: int) -> None:
    results, slack = copy(sample), 0.0  # pixels by which a box may differ from its mask
    with seeded(seed):
        for kind, value in steps:
            if kind == 'flip':
                results = Flip(prob=1.0, direction=value).transform(results)
            elif kind == 'resize':
                results = Resize(scale=value, keep_ratio=False, interpolation='nearest').transform(
                    results
                )
                slack = (slack + 1) * max(1.0, *results['scale_factor']) + 1
            else:
                results = Crop(size=value).transform(results)
                slack = 0.0
    size = results['img'].shape[:2]
    masks, boxes = results['gt_masks'].masks, results['gt_bboxes'].tensor.numpy()
    assert results['gt_seg_map'].shape == size == tuple(results['img_shape'])
    assert masks.shape[1:] == size and len(masks) == len(boxes)
    assert len(results['gt_bboxes_labels']) == len(boxes) == len(results['gt_ignore_flags'])
    assert len(results['gt_rotated_bboxes']) == len(results['gt_rotated_bboxes_labels'])
    assert np.array_equal(results['img'][..., 0], results['gt_seg_map'])
    painted = np.zeros(size, np.uint8)
    for mask, box, label in zip(masks, boxes, results['gt_bboxes_labels']):
        painted[mask > 0] = label + 1
        if mask.any():
            assert np.abs(box - tight(mask)).max() <= slack, (box, tight(mask), slack)
    assert np.array_equal(painted, results['gt_seg_map'])
    kept = FilterInstances().transform(copy(results))
    if kept is not None:
        assert all(mask.any() for mask in kept['gt_masks'].masks)
        assert len(kept['gt_masks']) == len(kept['gt_bboxes']) == len(kept['gt_bboxes_labels'])


@property_of(st.integers(20, 200), st.floats(0.2, 2), st.floats(0, 2), st.integers(0, 2**62))
def a_training_crop_has_tight_boxes(size: int, low: float, more: float, seed: int) -> None:
    pipeline = [LoadCrop(size=size, ratio_range=(low, low + more)), PackLabels()]
    source = open_small(_folders() / 'data')
    source.pipeline.transforms = pipeline
    with seeded(seed):
        sample = source.prepare_data(0)
    assume(sample is not None)  # a crop with boxes, but without a pixel of their masks
    label, shape = sample['data_samples'], sample['inputs'].shape[1:]
    found = label.gt_instances
    assert label.gt_sem_seg.sem_seg.shape[1:] == shape and max(shape) <= size
    for box, mask in zip(found.bboxes.tensor.tolist(), found.masks.masks):
        assert mask.shape == tuple(shape) and box == tight(mask)


# ---- masks and maps as runs ----

MASKS = hnp.arrays(
    np.uint8,
    st.tuples(SIDES, SIDES),
    elements=st.integers(0, 1),
    fill=st.integers(0, 1),
)


@property_of(MASKS)
def a_mask_is_what_its_run_lengths_say(mask: np.ndarray) -> None:
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(edges, prepend=0, append=len(flat)).tolist()
    encoded = encode_mask(dict(size=list(mask.shape), counts=counts), *mask.shape)
    again = encode_mask(dict(encoded, counts=encoded['counts'].decode()), *mask.shape)
    assert again['counts'] == encoded['counts']
    assert np.array_equal(decode_mask(encoded, *mask.shape), mask)
    data = np.frombuffer(encoded['counts'], np.uint8)
    runs = read_counts(data, np.array([len(data)]), mask.shape[0])
    seen, boxes, pixels = crop_masks(runs, *(Axis(np.arange(side), side) for side in mask.shape))
    assert len(seen) == mask.any()
    if mask.any():
        left, top, right, bottom = boxes[0]
        assert [left, top, right, bottom] == tight(mask)
        inside = mask[top:bottom, left:right]
        assert np.array_equal(pixels, inside.ravel(order='F'))


@property_of(hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), fill=st.integers(0, 255)), st.data())
def a_map_is_what_its_runs_say(labels: np.ndarray, data: st.DataObject) -> None:
    axes, shown = [], []
    for side in labels.shape:
        source = sorted(data.draw(st.lists(st.integers(0, side - 1), min_size=1, max_size=50)))
        source = np.array(source[::-1] if data.draw(st.booleans()) else source)
        axes.append(Axis(source, side))
        shown.append(source)
    assert np.array_equal(crop_map(map_runs(labels), *axes), labels[np.ix_(*shown)])


# ---- rotated boxes ----


@st.composite
def rotated_boxes(draw: Any, max_boxes: int = 8, size: float = 1000.0) -> Tensor:
    """Draw boxes: cx, cy, w, h, angle."""
    place, side = st.floats(-size, size, width=32), st.floats(0, size, width=32)
    box = st.tuples(place, place, side, side, st.floats(-10, 10, width=32))
    return torch.tensor(draw(st.lists(box, max_size=max_boxes)), dtype=torch.float64).reshape(-1, 5)


@property_of(rotated_boxes(), rotated_boxes(), st.sampled_from((torch.float32, torch.float64)))
def overlaps_are_symmetric_and_within_0_and_1(one: Tensor, two: Tensor, dtype: Any) -> None:
    one, two = one.to(dtype), two.to(dtype)
    both = torch.cat([one, two, one])  # so that equal boxes are among them
    overlaps = box_iou_rotated(both, both)
    assert ((overlaps >= 0) & (overlaps <= 1)).all(), overlaps
    torch.testing.assert_close(overlaps, overlaps.T, atol=1e-6, rtol=0)
    solid = (both[:, 2:4] > 1e-3).all(1)
    own = overlaps.diagonal()[solid]
    torch.testing.assert_close(own, torch.ones_like(own), atol=1e-5, rtol=0)
    aligned = box_iou_rotated(both, both.flip(0), aligned=True)
    torch.testing.assert_close(aligned, overlaps.flip(1).diagonal(), atol=1e-6, rtol=0)
    shares = box_iou_rotated(both, both, 'iof')
    assert (shares >= overlaps - 1e-6).all()
    assert (shares[solid] <= 1 + 1e-5).all()  # of a box without area it is rounding


@property_of(rotated_boxes(12, 60.0), st.floats(0, 1), st.integers(1, 3), st.data())
def nms_keeps_a_maximal_set(
    boxes: Tensor, threshold: float, classes: int, data: st.DataObject
) -> None:
    number = len(boxes)
    drawn = partial(st.lists, min_size=number, max_size=number)
    scores = torch.tensor(data.draw(drawn(st.sampled_from((0.1, 0.2, 0.5, 0.5001, 0.9)))))
    scores = scores.reshape(-1)
    labels = torch.tensor(data.draw(drawn(st.integers(0, classes - 1))), dtype=torch.int64)
    kept = nms_rotated(boxes, scores, threshold, labels).tolist()
    overlaps = box_iou_rotated(boxes, boxes)
    overlaps[labels[:, None] != labels] = 0
    assert len(set(kept)) == len(kept) and bool(kept) == bool(number)
    assert scores[kept].tolist() == sorted(scores.tolist(), reverse=True)[:0] + sorted(
        scores[kept].tolist(), reverse=True
    )
    slack = 1e-6
    for place, one in enumerate(kept):
        assert all(overlaps[one, other] <= threshold + slack for other in kept[:place])
    for lost in set(range(number)) - set(kept):
        over = [k for k in kept if scores[k] >= scores[lost]]
        assert any(overlaps[lost, k] > threshold - slack for k in over), 'none overlaps it'


# ---- what is written is read again ----

TENTHS = st.integers(-10_000_000, 10_000_000).map(lambda value: value / 10)
CORNERS = st.lists(TENTHS, min_size=8, max_size=8)
NAMES = st.sampled_from(('plane', 'ship', 'storage-tank'))
QUADS = st.lists(st.tuples(CORNERS, NAMES, st.integers(0, 2)), max_size=5)


def in_folder(use: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        use(Path(folder))


def have_area(corners: list[float]) -> bool:
    return find_unusable(np.array(corners), None, rotated=True) == [None]


@property_of(QUADS)
def dota_text_is_read_as_written(objects: list) -> None:
    def use(folder: Path) -> None:
        path = folder / 'a.txt'
        path.write_text(''.join(dota_line(np.array(c), name, hard) for c, name, hard in objects))
        found = [(b.corners.ravel().tolist(), b.name, b.difficulty) for b in read_dota(path)]
        assert found == objects
        labels = {'plane': 0, 'ship': 1, 'storage-tank': 2}
        boxes = [(box['bbox'], box['bbox_label']) for box in read_rotated(path, labels)]
        assert boxes == [(c, labels[name]) for c, name, _ in objects if have_area(c)]

    in_folder(use)


@property_of(QUADS)
def dior_r_xml_is_read_as_written(objects: list) -> None:
    def use(folder: Path) -> None:
        text = ''
        for corners, name, _ in objects:
            box = ''.join(f'<{tag}>{c}</{tag}>' for tag, c in zip(CORNER_TAGS, corners))
            text += f'<object><name>{name}</name><robndbox>{box}</robndbox></object>'
        (folder / 'a.xml').write_text(f'<annotation>{text}</annotation>')
        labels = {'plane': 0, 'ship': 1, 'storage-tank': 2}
        boxes = [(b['bbox'], b['bbox_label']) for b in read_rotated(folder / 'a.xml', labels)]
        assert boxes == [(c, labels[name]) for c, name, _ in objects if have_area(c)]

    in_folder(use)


COLUMNS = dict(
    boxes=Column('object', np.float32, (4,)),
    labels=Column('object', np.int64),
    counts=BytesColumn('object'),
)


@st.composite
def entries(draw: Any) -> list[Entry]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        objects = draw(st.integers(0, 3))
        found.append(
            Entry(
                img_id=draw(st.integers(-(2**63), 2**63 - 1)),
                file_name=draw(st.text(st.characters(codec='utf-8'), min_size=1, max_size=8)),
                size=(draw(SIDES), draw(SIDES)),
                boxes=draw(
                    hnp.arrays(np.float32, (objects, 4), elements=st.floats(0, 9, width=32))
                ),
                labels=draw(hnp.arrays(np.int64, objects)),
                counts=[draw(st.binary(max_size=6)) for _ in range(objects)],
            )
        )
    return found


@property_of(entries())
def an_index_is_read_as_written(written: list[Entry]) -> None:
    def use(folder: Path) -> None:
        write_index(folder, written, COLUMNS, Tally())
        verify_index(folder)
        index = Index(folder, COLUMNS)
        assert len(index) == len(written)
        for number, entry in enumerate(written):
            for key, value in vars(entry).items():
                assert np.array_equal(getattr(index[number], key), value), key

    in_folder(use)


@property_of(st.data())
def a_damaged_index_is_made_again(data: st.DataObject) -> None:
    home = _folders() / 'data'
    open_small(home)
    (made,) = (home / '.mtp_index').iterdir()
    target = data.draw(st.sampled_from(sorted(path.name for path in made.iterdir())))
    content = (made / target).read_bytes()
    changed = data.draw(changes(content))
    assume(changed != content)

    def use(folder: Path) -> None:
        shutil.copytree(home, folder, dirs_exist_ok=True)
        shutil.rmtree(folder / '.mtp_index')
        expected = vars(open_small(folder).index[0])
        (again,) = (folder / '.mtp_index').iterdir()
        if data.draw(st.booleans()):
            (again / target).write_bytes(changed)
        else:
            (again / target).unlink()
        found = open_small(folder).index
        assert len(found) == 1
        for key, value in expected.items():
            assert np.array_equal(getattr(found[0], key), value), key

    in_folder(use)


@st.composite
def changes(draw: Any, content: bytes) -> bytes:
    at = draw(st.integers(0, len(content)))
    some = draw(st.binary(max_size=8))
    return content[:at] + some + content[at + draw(st.integers(0, 8)) :]


PIXELS = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3)), fill=st.integers(0, 255))


@property_of(PIXELS)
def images_are_read_as_written(pixels: np.ndarray) -> None:
    def use(folder: Path) -> None:
        for name in ('a.png', 'a.tif', 'a.bmp'):
            cv2.imwrite(str(folder / name), pixels[..., ::-1])
            assert np.array_equal(read_image(folder / name), pixels), name
        cv2.imwrite(str(folder / 'map.png'), pixels[..., 0])
        assert np.array_equal(read_map(folder / 'map.png'), pixels[..., 0])

    in_folder(use)


@property_of(
    st.dictionaries(
        st.text('abc._', min_size=1, max_size=6),
        hnp.arrays(st.sampled_from((np.float32, np.int64, np.uint8)), hnp.array_shapes(max_dims=3)),
        min_size=1,
        max_size=3,
    )
)
def a_checkpoint_is_read_as_written(arrays: dict) -> None:
    def use(folder: Path) -> None:
        weights = {key: torch.from_numpy(value) for key, value in arrays.items()}
        torch.save(dict(state_dict=weights, meta=dict(iter=3)), folder / 'a.pth')
        for found in (
            load_safely(folder / 'a.pth')['state_dict'],
            read_state_dict(folder / 'a.pth'),
        ):
            assert set(found) == set(weights)
            for key, value in weights.items():
                assert torch.equal(found[key].nan_to_num(), value.nan_to_num())

    in_folder(use)


# ---- any bytes give a sample or one named error ----


def _attack(name: str) -> Callable[[], None]:
    @given(damaged(name))
    def any_bytes(made: tuple[str, bytes]) -> None:
        attack(TARGETS[name], *made)

    return any_bytes


for _name in TARGETS:
    PROPERTIES[f'any_bytes_of_{_name}'] = _attack(_name)
