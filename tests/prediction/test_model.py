"""A checkpoint alone makes a model, whose predictions are those of a test."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

import mtp
from mtp.prediction.results import Change, Classification, Detections, RotatedDetections
from tests.prediction.small import MAKERS, config_of, save

pytestmark = pytest.mark.usefixtures('few_objects')


def first_image(task, root):
    """Return the first image of the data, or the first pair."""
    folder = root / 'mine'
    if task == 'change_detection':
        return folder / 'A' / '0.png', folder / 'B' / '0.png'
    return sorted(folder.rglob('*.png'))[0] if task == 'classification' else folder / 'images/0.png'


def of_a_test(cfg, model, image):
    """Return the sample of the image that a test would make."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtp')):
        datasets = [
            DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val')
        ]
        transforms = datasets[1]
        inner = getattr(transforms, 'datasets', [transforms])[0]
        record = (
            dict(img_path=str(image[0]), img_path2=str(image[1]))
            if isinstance(image, tuple)
            else dict(img_path=str(image))
        )
        steps = [
            step
            for step in inner.pipeline.transforms
            if type(step).__name__
            not in ('LoadAnnotations', 'LoadLabels', 'LoadClassMap', 'LoadChange', 'ConvertBoxType')
        ]
        for step in steps:
            record = step(record)
        data = model.data_preprocessor(pseudo_collate([record]), False)
        for sample in data['data_samples']:
            if 'datasets' in transforms.metainfo:
                sample.set_metainfo(dict(dataset='mine'))
        with torch.no_grad():
            return model(**data, mode='predict')[0]


@pytest.mark.parametrize('task', sorted(MAKERS))
def test_predictions_are_those_of_a_test(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config_of(task, tmp_path)
    built = save(cfg, tmp_path / 'a.pth')
    model = mtp.load(tmp_path / 'a.pth', device='cpu')
    assert model.task == task
    image = first_image(task, tmp_path)
    expected = of_a_test(cfg, built, image)
    found = model(image, score=0.0)
    if task == 'pretraining':
        assert {*found} == {('mine', name) for name in ('semantic', 'instance', 'rotated')}
        rotated = found['mine', 'rotated']
        assert isinstance(rotated, RotatedDetections) and found['mine', 'instance'].masks.ndim == 3
        np.testing.assert_array_equal(
            found['mine', 'semantic'].labels, expected.pred_sem_seg.sem_seg[0].numpy()
        )
        assert found['mine', 'semantic'].classes == ('background', 'car', 'plane')
        np.testing.assert_array_equal(
            rotated.scores, expected.pred_rotated_instances.scores.numpy()
        )
    elif task == 'classification':
        assert isinstance(found, Classification) and found.classes == ('car', 'plane')
        np.testing.assert_array_equal(found.scores, expected.pred_score.numpy())
    elif task in ('segmentation', 'change_detection'):
        np.testing.assert_array_equal(found.labels, expected.pred_sem_seg.data[0].numpy())
        assert isinstance(found, Change) == (task == 'change_detection')
        np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    else:
        assert isinstance(found, Detections) and len(found) == len(expected.pred_instances) > 0
        np.testing.assert_array_equal(found.scores, expected.pred_instances.scores.numpy())
        if task == 'horizontal_detection':
            boxes = get_box_tensor(expected.pred_instances.bboxes).numpy()
            np.testing.assert_array_equal(found.boxes, boxes)
    assert found.plot().shape[2] == 3
    # path, PIL image and array of one file give equal results
    for other in (Image.open, lambda path: np.asarray(Image.open(path))):
        same = model(
            tuple(map(other, image)) if isinstance(image, tuple) else other(image), score=0.0
        )
        results = zip(found.values(), same.values()) if task == 'pretraining' else [(found, same)]
        for one, two in results:
            for key in ('scores', 'labels', 'boxes'):
                if hasattr(one, key):
                    np.testing.assert_array_equal(getattr(one, key), getattr(two, key))
