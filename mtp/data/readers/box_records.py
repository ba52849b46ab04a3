"""Records of images with boxes: filtered and counted by one rule, whatever they are read from."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtp.data.class_names import ClassNames
from mtp.data.coco_objects import count_objects
from mtp.data.tally import Tally


def filter_records(
    records: Sequence[dict], cfg: Mapping[str, Any] | None, names: ClassNames, tally: Tally
) -> list[dict]:
    """Return the records that are used, and count them and those that are left out.

    Args:
        records: records of mmdet, each with ``instances``.
        cfg: mmdet's ``filter_cfg``: ``filter_empty_gt`` and ``min_size``, the shorter side of an
            image in pixels, where its size is known; None to use all records.
        names: classes of the data set.
        tally: counts of the reader.
    """
    cfg = cfg or {}
    smallest = cfg.get('min_size', 0)
    used = []
    for record in records:
        found = record['instances']
        if cfg.get('filter_empty_gt') and not found:
            tally.leave_out('images without objects', record['img_path'])
        elif min(record.get(side, smallest) for side in ('height', 'width')) < smallest:
            tally.leave_out(f'images of less than {smallest} px', record['img_path'])
        else:
            used.append(record)
            labels = [each['bbox_label'] for each in found]
            tally.add(count_objects(labels, [each['ignore_flag'] for each in found], names))
    return used
