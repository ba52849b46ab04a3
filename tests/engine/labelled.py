"""Eight labelled images, four of each data set, that differ in their objects."""

from typing import ClassVar

from torch.utils.data import Dataset

from tests.models.small import make_sample

TASKS = ('semantic', 'instance')
OBJECTS = [
    ((1, (10, 12, 40, 30)), (0, (30, 34, 60, 60))),
    ((0, (5, 5, 20, 50)),),
    (),
    ((1, (2, 40, 30, 60)), (1, (34, 4, 60, 20)), (0, (8, 8, 24, 30))),
]


class LabelledImages(Dataset):
    """Image ``i`` is of the first data set below 4; processes that share them get some of both."""

    metainfo: ClassVar[dict] = {
        'datasets': {name: {'classes': ('plane', 'ship'), 'tasks': TASKS} for name in 'ab'}
    }

    def __len__(self) -> int:
        return 2 * len(OBJECTS)

    def __getitem__(self, index: int) -> dict:
        which = index % len(OBJECTS)
        image, sample = make_sample('ab'[index // len(OBJECTS)], TASKS, OBJECTS[which], seed=index)
        return {'inputs': image, 'data_samples': sample}
