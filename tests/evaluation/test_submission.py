"""Submission files in the formats that the servers take."""

import zipfile

import cv2
import numpy as np
import torch

from mtp.evaluation import LoveDASubmission


def test_loveda(tmp_path):
    rng = np.random.default_rng(0)
    maps = {f'data/test/images/{i}.png': rng.integers(0, 7, (20, 30)) for i in (4191, 12, 5000)}
    metric = LoveDASubmission(out_dir=str(tmp_path / 'new' / 'folder'))
    for path, labels in [*maps.items(), *list(maps.items())[:1]]:
        # mmseg marks the data set's shift; the server wants none
        metric.process(
            {},
            [
                dict(
                    img_path=path,
                    reduce_zero_label=True,
                    pred_sem_seg=dict(data=torch.from_numpy(labels)[None]),
                )
            ],
        )
    assert metric.evaluate(4) == {'images': 3}

    assert [path.name for path in (tmp_path / 'new' / 'folder').iterdir()] == ['loveda.zip']
    with zipfile.ZipFile(tmp_path / 'new' / 'folder' / 'loveda.zip') as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {'4191.png', '12.png', '5000.png'}
        for path, labels in maps.items():
            content = np.frombuffer(archive.read(path.split('/')[-1]), np.uint8)
            image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
            assert image.dtype == np.uint8 and np.array_equal(image, labels)
