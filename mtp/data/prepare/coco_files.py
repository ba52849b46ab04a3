"""Writer of horizontal boxes as the COCO json that mmdet reads."""

from collections.abc import Sequence
from pathlib import Path

from mtp.data.prepare.base import Report
from mtp.data.samrs.to_coco import assemble
from mtp.files import write_json

# pycocotools treats an object with id 0 as no object
FIRST_ID = 1

Entry = tuple[dict, list[dict]]  # an image of the COCO json, and its annotations, without ids


def coco_image(name: str, shape: tuple[int, int], annotations: list[dict]) -> Entry:
    """Return the entry of an image of height and width ``shape``."""
    return dict(file_name=name, height=shape[0], width=shape[1]), annotations


def coco_box(label: int, x1: float, y1: float, x2: float, y2: float) -> dict:
    """Return the entry of an object, from its corners in pixels."""
    w, h = float(x2 - x1), float(y2 - y1)
    return dict(category_id=int(label), bbox=[float(x1), float(y1), w, h], area=w * h, iscrowd=0)


def write_coco(
    path: Path, entries: Sequence[Entry], classes: Sequence[str], split: str, report: Report
) -> None:
    """Write the json of a split, category id = label; report the number of its objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coco = assemble(entries, classes, FIRST_ID)
    write_json(path, coco)
    report.made[f'{split} objects'] = len(coco['annotations'])
