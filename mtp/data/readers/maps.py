"""Images with a label map each: found by name, and their values read by one rule."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmengine.dataset import BaseDataset

from mtp.data.class_names import check_classes
from mtp.data.image_files import is_hidden, match_images
from mtp.data.map_values import LabelValues, MapRule, read_rule
from mtp.data.samrs.records import palette as distinct_colours
from mtp.data.tally import Tally
from mtp.registry import DATASETS


class MapDataset(BaseDataset):
    """Images with a label map: ``<root>/<split>/<folder>/<same name>``, of any suffix.

    The values of the label maps are judged once, over all files of all splits
    (:mod:`mtp.data.map_values`).

    Args:
        data_root: root folder, e.g. ``data/mine``.
        split: name of the split, a folder.
        classes: names in label order.
        label_values: value of the label maps, or colour as ``'#rrggbb'``, -> class, or None for
            ignored pixels; None if the values speak for themselves.
        palette: colour (RGB) of each class; None for distinct ones.
        pipeline: transforms of an item.
        test_mode: test mode, as in mmengine.

    Attributes:
        folders: key of a record -> its folder in a split; the last one has the label maps.
        tally: counts of what was read and left out.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a name is not in all folders, they are empty, or the values of the label maps
            have no one meaning.
    """

    folders: ClassVar[dict[str, str]]

    def __init__(
        self,
        data_root: str,
        split: str,
        classes: Sequence[str],
        label_values: LabelValues | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        classes = check_classes(classes)
        colours = distinct_colours(len(classes)) if palette is None else palette
        if len(colours) != len(classes):
            raise ValueError(f'palette has {len(colours)} colours for {len(classes)} classes')
        self.root, self.split, self.label_values = Path(data_root), split, label_values
        self.tally = Tally()
        self._rule: MapRule | None = None
        super().__init__(
            metainfo=dict(classes=classes, palette=[list(colour) for colour in colours]),
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict]:
        """Return a record of paths for each image, in the order of their names."""
        self.tally = Tally()
        folders = [self.root / self.split / folder for folder in self.folders.values()]
        found = match_images(folders, self.tally)
        self.tally.images = len(found)
        self._judge()
        return [
            dict(zip(self.folders, map(str, paths), strict=True), seg_fields=[]) for paths in found
        ]

    def get_data_info(self, idx: int) -> dict:
        """Return a record, with the rule for the values of its label map as ``map_rule``."""
        return dict(super().get_data_info(idx), map_rule=self._rule)

    def _judge(self) -> None:
        """Find out what the values of the label maps mean."""
        (*_, labels) = self.folders.values()
        splits = sorted(path for path in self.root.iterdir() if not is_hidden(path.name))
        there = [split / labels for split in splits if (split / labels).is_dir()]
        classes = self.metainfo['classes']
        self._rule = read_rule(self.root, there, classes, self.label_values, self.tally)


@DATASETS.register_module()
class SegmentationDataset(MapDataset):
    """Areas: ``<root>/<split>/{images,labels}/<same name>``, of any suffix."""

    folders: ClassVar[dict[str, str]] = dict(img_path='images', seg_map_path='labels')
