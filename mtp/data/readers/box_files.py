"""Detection data sets whose images have a label file each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmdet.datasets import BaseDetDataset

from mtp.data.class_names import ClassNames, first_spellings
from mtp.data.datasets import DATASETS
from mtp.data.decoding import read_turned_size
from mtp.data.formats import FORMATS, Box, Size, usable
from mtp.data.formats.yolo_text import NAME_FILES, find_names, name_classes
from mtp.data.image_files import SUFFIXES, images_by_stem
from mtp.data.label_files import read_lines
from mtp.data.readers.box_records import filter_records
from mtp.data.tally import Tally
from mtp.data.values import check_name
from mtp.files import MissingFileError, UnusableFileError
from mtp.registry import DATASETS as REGISTRY
from mtp.spelling import compose, suggest

NO_IMAGE = 'label files without an image'


@REGISTRY.register_module()
class BoxFilesDetection(BaseDetDataset):
    """Images with a label file each, of the same name but for the suffix.

    Images are read in the order of their names, or of a list. What is left out is counted in
    ``tally``: boxes without area or outside of their image, label files without an image and, in
    training, the images that ``filter_cfg`` names (``filter_empty_gt``, ``min_size``).

    Args:
        format: key of :data:`mtp.data.formats.FORMATS`: ``'dota'``, ``'yolo'``, ``'yolo_obb'``,
            ``'voc'``, ``'dior_r'`` or ``'fair1m'``.
        classes: class names in label order. The indices in YOLO's files are those of the names in
            ``data.yaml`` or ``classes.txt``, if there is such a file, else those of ``classes``,
            which may be None where there is.
        dataset: key of :data:`mtp.data.datasets.DATASETS`, for its classes, instead of ``classes``.
        data_root: folder that the other paths are below.
        ann_file: folder of the label files; empty for images without labels, to test on.
        data_prefix: ``dict(img_path=<folder of the images>)``.
        image_set: list of the images to use, a name per line; empty for all.
        rotated: whether the boxes are used as rotated ones; None for what the format's are.
        kwargs: further arguments, as in mmdet's ``BaseDetDataset``.

    Raises:
        FileNotFoundError: there are no images, or no label files, or an image has none (in YOLO's
            formats it has no objects then).
        ValueError: the format is unknown; classes are missing or given twice; two images have one
            name; a label file cannot be read or names an unknown class; nothing is left to use.
    """

    METAINFO: ClassVar[dict] = {}

    def __init__(
        self,
        format: str,
        classes: Sequence[str] | None = None,
        dataset: str | None = None,
        data_root: str = '',
        ann_file: str = '',
        data_prefix: dict[str, str] | None = None,
        image_set: str = '',
        rotated: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(
                f'no format {format!r}{suggest(format, FORMATS)}: choose one of '
                f'{", ".join(FORMATS)}'
            )
        self.format = FORMATS[format]
        self.rotated = self.format.rotated if rotated is None else rotated
        self.known = dataset is not None
        self.image_set = Path(data_root, image_set) if image_set else None
        # `mtp data prepare` has judged the boxes of a known data set by their images
        self.needs_sizes = not self.known or self.format.numbered
        self.tally = Tally(objects=0 if ann_file else None)
        # names of the classes by the indices of YOLO's files
        self.indices: Sequence[str] = ()
        if dataset is not None:
            classes = DATASETS[dataset].classes
        if self.format.numbered:
            labels = Path(data_root, ann_file)
            folders = [labels, labels.parent] if ann_file else []
            classes = self._find_classes(classes, [*folders, Path(data_root)])
        if classes is None:
            raise ValueError('give `classes`, or `dataset` for those of a known data set')
        self.names = ClassNames(classes, self.tally)
        super().__init__(
            metainfo=dict(classes=self.names.classes, palette=None),
            data_root=data_root,
            ann_file=ann_file,
            data_prefix=data_prefix or dict(img_path=''),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Load a record of each image."""
        folder = self._folder
        images = images_by_stem(folder, self.tally, [self.format.suffix])
        if not images:
            raise MissingFileError(
                f'no images ({", ".join(SUFFIXES)}) in {folder}: {self._remedy("data_prefix")}'
            )
        if self.image_set is not None:
            images = self._listed(images, self.image_set)
        labels = self._find_labels(images) if self.ann_file else {}
        return [self._record(path, labels.get(stem)) for stem, path in images.items()]

    def filter_data(self) -> list[dict]:
        """Leave out the images that ``filter_cfg`` names; count what is left."""
        cfg = None if self.test_mode else self.filter_cfg
        left = filter_records(self.data_list, cfg, self.names, self.tally)
        if not self.ann_file:
            self.tally.objects = None
        elif left:
            self._note_missing()
        if not left:
            raise UnusableFileError(
                f'no image is left of those in {self._folder} '
                f'({self.tally.summary()}): looked for objects of {", ".join(self.names.classes)} '
                f'in *{self.format.suffix} in {self.ann_file}; label some, or set '
                'filter_cfg=dict(filter_empty_gt=False)'
            )
        return left

    def _note_missing(self) -> None:
        """Note the classes that no object has."""
        missing = [name for name in self.names.classes if not self.tally.of_class[name]]
        if missing:
            self.tally.note(f'no object in {self.ann_file} is of the class {", ".join(missing)}')

    @property
    def _folder(self) -> Path:
        """Folder of the images; a recipe for a json has set another one as ``img``."""
        prefix = self.data_prefix
        return Path(prefix['img_path'] if 'img_path' in prefix else prefix['img'])

    def _find_classes(
        self, classes: Sequence[str] | None, folders: list[Path]
    ) -> Sequence[str] | None:
        """Return the classes; note the names of the indices in YOLO's files."""
        found = find_names(folders)
        if found is None and classes is None:
            raise MissingFileError(
                f'no names of the classes: give `classes`, or add {" or ".join(NAME_FILES)} in '
                f'{folders[-1]}'
            )
        if found is None:
            self.indices = classes or ()
            return classes
        path, self.indices = found
        self.tally.note(f'classes by index, of {path}: {", ".join(self.indices)}')
        return first_spellings(self.indices) if classes is None else classes

    def _find_labels(self, images: dict[str, Path]) -> dict[str, Path]:
        """Return the label files, stem -> path; count those without an image."""
        folder = Path(self.ann_file)
        if not folder.is_dir():
            raise MissingFileError(f'no folder {folder} of labels: {self._remedy("ann_file")}')
        labels = {
            compose(path.stem): path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() == self.format.suffix and not path.name.startswith('.')
        }
        if self.format.numbered and 'classes' not in images:
            labels.pop('classes', None)
        if not labels:
            raise MissingFileError(
                f'no *{self.format.suffix} in {folder}: {self._remedy("ann_file")}'
            )
        if self.image_set is None:  # else they may be of images of another list
            for stem in sorted(labels.keys() - images.keys()):
                self.tally.leave_out(NO_IMAGE, str(labels[stem]))
        self._check_complete(images, labels)
        return labels

    def _listed(self, images: dict[str, Path], path: Path) -> dict[str, Path]:
        """Return the images that a list names, in its order."""
        if not path.is_file():
            raise MissingFileError(f'no list of images at {path}: {self._remedy("image_set")}')
        listed: dict[str, Path] = {}
        for place, line in read_lines(path):
            name = compose(line.strip())
            if not name:
                continue
            stem = Path(name).stem if name.lower().endswith(SUFFIXES) else name
            if check_name(stem, place) not in images:
                raise UnusableFileError(
                    f'{place}: no image {name!r:.80} in {self._folder}: '
                    'restore it, or remove the line'
                )
            if stem in listed:
                raise UnusableFileError(f'{place}: {name!r:.80} is listed twice: remove one line')
            listed[stem] = images[stem]
        if not listed:
            raise UnusableFileError(f'{path} lists no images: {self._remedy("image_set")}')
        return listed

    def _check_complete(self, images: dict[str, Path], labels: dict[str, Path]) -> None:
        """Refuse images without a label file, unless that says that they have no objects."""
        missing = [path.name for stem, path in images.items() if stem not in labels]
        if not missing:
            return
        shown = ', '.join(missing[:3]) + (', ...' if len(missing) > 3 else '')
        count = f'{len(missing):,} of {len(images):,} images'
        if self.format.numbered and len(missing) < len(images):
            self.tally.note(f'{count} have no label file, and so no objects: {shown}')
            return
        raise MissingFileError(
            f'{count} have no label file *{self.format.suffix} in {self.ann_file}: {shown}. Label '
            'them or move them away; an image without objects has a label file without objects'
        )

    def _record(self, image: Path, label: Path | None) -> dict:
        size = read_turned_size(image) if self.needs_sizes else None
        record: dict[str, Any] = dict(
            img_id=image.stem,
            img_path=str(image),
            file_name=image.name,
            instances=[] if label is None else self._instances(image, label, size),
        )
        if label is not None:
            record['label_path'] = str(label)
        if size is not None:
            record['height'], record['width'] = size
        return record

    def _instances(self, image: Path, label: Path, size: Size | None) -> list[dict]:
        if size is None and self.format.numbered:
            raise UnusableFileError(
                f'{image} is no readable image, whose size the shares in {label} are of: restore it'
            )
        boxes = self.format.read(label, size)
        if self.format.numbered:
            boxes = name_classes(boxes, self.indices)
        return [
            self._instance(box, number)
            for box, number in usable(boxes, self.names, size, self.rotated, self.tally)
        ]

    def _instance(self, box: Box, label: int) -> dict:
        instance = dict(bbox_label=label, ignore_flag=0)
        if self.rotated:
            return dict(instance, bbox=box.corners.reshape(-1).tolist())
        (x1, y1), (x2, y2) = box.corners.min(0).tolist(), box.corners.max(0).tolist()
        return dict(instance, bbox=[x1, y1, x2, y2], area=(x2 - x1) * (y2 - y1))

    def _remedy(self, argument: str) -> str:
        return (
            'make them with `mtp data prepare`, or set data_root'
            if self.known
            else f'correct `data_root` or `{argument}` of the data set'
        )
