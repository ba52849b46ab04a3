"""Subsets of SAMRS, the data of pretraining."""

from dataclasses import dataclass

# Values of a semantic map on disk that are no class; SAMRS itself has no ignored pixels.
BACKGROUND, IGNORED_ON_DISK = 255, 254


@dataclass(frozen=True)
class Subset:
    """Paths of a subset's labels below its root, and its classes in label order."""

    images: str
    semantic: str
    masks: str
    instances: str
    rotated: str
    rotated_suffix: str
    classes: tuple[str, ...]


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split())


SUBSETS = {
    'sota': Subset(
        images='trainval/images',
        semantic='trainval/rhbox_segs_init/gray',
        masks='trainval/rhbox_segs_init/ins',
        instances='trainval/sota_rbb_{split}_ins_segmentation.json',
        rotated='trainval/rbbtxts',
        rotated_suffix='.txt',
        classes=_split(
            'large-vehicle swimming-pool helicopter bridge plane ship soccer-ball-field '
            'basketball-court ground-track-field small-vehicle baseball-diamond tennis-court '
            'roundabout storage-tank harbor container-crane airport helipad'
        ),
    ),
    'sior': Subset(
        images='JPEGImages-trainval',
        semantic='hbox_segs_trainvaltest_init/gray',
        masks='hbox_segs_trainvaltest_init/ins',
        instances='sior_{split}_ins_segmentation.json',
        rotated='Annotations/Oriented Bounding Boxes',
        rotated_suffix='.xml',
        classes=_split(
            'airplane airport baseballfield basketballcourt bridge chimney '
            'expressway-service-area expressway-toll-station dam golffield groundtrackfield '
            'harbor overpass ship stadium storagetank tenniscourt trainstation vehicle windmill'
        ),
    ),
    'fast': Subset(
        images='trainval/images',
        semantic='trainval/rhbox_segs_init/gray',
        masks='trainval/rhbox_segs_init/ins',
        instances='trainval/fast_{split}_ins_segmentation.json',
        rotated='trainval/rbbtxts',
        rotated_suffix='.txt',
        classes=_split(
            'A220 A321 A330 A350 ARJ21 Baseball-Field Basketball-Court Boeing737 Boeing747 '
            'Boeing777 Boeing787 Bridge Bus C919 Cargo-Truck Dry-Cargo-Ship Dump-Truck '
            'Engineering-Ship Excavator Fishing-Boat Football-Field Intersection '
            'Liquid-Cargo-Ship Motorboat other-airplane other-ship other-vehicle Passenger-Ship '
            'Roundabout Small-Car Tennis-Court Tractor Trailer Truck-Tractor Tugboat Van '
            'Warship'
        ),
    ),
}

# RGB colours of all subsets; each uses as many as it has classes.
PALETTE = (
    (0, 127, 255), (0, 63, 0), (0, 127, 63), (0, 63, 255), (0, 0, 127), (0, 127, 127), (0, 0, 63),
    (0, 63, 127), (0, 63, 191), (0, 191, 127), (0, 127, 191), (0, 63, 63), (0, 100, 155),
    (0, 0, 255), (0, 0, 191), (64, 191, 127), (64, 0, 191), (128, 63, 63), (128, 0, 63),
    (191, 63, 0), (255, 127, 0), (63, 0, 0), (127, 63, 0), (63, 255, 0), (0, 127, 0),
    (127, 127, 0), (63, 0, 63), (63, 127, 0), (63, 191, 0), (191, 127, 0), (127, 191, 0),
    (63, 63, 0), (100, 155, 0), (0, 255, 0), (0, 191, 0), (191, 127, 64), (0, 191, 64),
)  # fmt: skip
