"""Small detection sets, as their owners pack them and prepared."""

import shutil

import pytest

from mtp.data.datasets import DATASETS
from mtp.data.prepare import prepare

# Smaller than what the tool makes, for speed; those to spoil are smaller than a tile.
SMALL = {
    'xview': dict(num=3, image_size=500),
    'dior': dict(num_trainval=4, num_test=2),
    'dior_r': dict(num_trainval=4, num_test=2),
    'fair1m': dict(num_train=2, num_val=1, num_test=1, image_size=900),
    'dota_v1': dict(num_train=1, num_val=1, num_test=1, image_size=1100),
    'dota_v2': dict(num_train=1, num_val=1, num_test=1, image_size=500),
}
TINY = {
    'fair1m': dict(num_train=3, num_val=1, num_test=1, image_size=300),
    'dota_v1': dict(num_train=2, num_val=1, num_test=1, image_size=300),
}


@pytest.fixture(scope='session')
def detection_set(tmp_path_factory):
    """Sources and what was prepared of them, made when asked for; not to be changed."""
    results = {}

    def get(name):
        if name not in results:
            root = tmp_path_factory.mktemp(name)
            DATASETS[name].synthesise(root / 'src', **SMALL.get(name, {}))
            results[name] = root / 'src', root / 'dst', prepare(name, root / 'src', root / 'dst')
        return results[name]

    return get


@pytest.fixture(scope='session')
def tiny_detection_sources(tmp_path_factory):
    return {
        name: DATASETS[name].synthesise(tmp_path_factory.mktemp(name), **SMALL[name] | sizes)
        for name, sizes in TINY.items()
    }


@pytest.fixture
def detection_source(detection_set, tiny_detection_sources, tmp_path):
    """A source of one's own to spoil."""
    return lambda name: shutil.copytree(
        tiny_detection_sources.get(name) or detection_set(name)[0], tmp_path / 'src'
    )
