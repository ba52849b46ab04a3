"""``mtp test --show-dir`` and ``--report``: predictions beside the truth, for finetuned models."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmrotate.structures import RotatedBoxes
from mmseg.structures import SegDataSample

from mtp.files import read_figures
from mtp.visualization.report_page import figure
from mtp.visualization.samples import draw_result
from mtp.visualization.visualizer import CAPTION, MARGIN
from tests.conftest import REPO
from tests.tools.test_train import run_tool

LEVIR = REPO / 'configs' / 'finetune' / 'change_detection' / 'levir' / 'vit_b_rvsa.py'
SIDE = 384  # of a tile: smaller images are enlarged
META = dict(classes=('plane', 'ship'), palette=[(255, 0, 0), (0, 0, 255)])
GREY = np.full((SIDE, SIDE, 3), 128, np.uint8)


def tiles(picture, columns, top=CAPTION):
    return [
        picture[top : top + SIDE, left : left + SIDE]
        for left in range(MARGIN, MARGIN + columns * (SIDE + MARGIN), SIDE + MARGIN)
    ]


def test_pairs_from_the_command_line(monkeypatch, tmp_path):
    label = np.zeros((64, 64), np.uint8)
    label[:, 40:] = 255
    colours = {'A': (10, 20, 200), 'B': (220, 130, 30)}  # BGR
    for folder, images in (
        *((name, [np.full((64, 64, 3), colour, np.uint8)] * 2) for name, colour in colours.items()),
        ('label', [label, 255 - label]),
    ):
        (tmp_path / 'test' / folder).mkdir(parents=True)
        for name, image in zip(('p', 'q'), images):
            cv2.imwrite(str(tmp_path / 'test' / folder / f'{name}.png'), image)

    def run(name, *options):
        run_tool(
            monkeypatch,
            'test',
            str(LEVIR),
            'untrained',
            '--work-dir',
            str(tmp_path / name),
            *options,
            '--cfg-options',
            f'experiment_name={name}',
            f'test_dataloader.dataset.data_root={tmp_path}',
            'test_dataloader.num_workers=0',
            'test_dataloader.persistent_workers=False',
            'model.backbone.name=vit_tiny_rvsa',
            'model.backbone.init_cfg=None',
            'model.backbone.img_size=64',
            'model.decode_head.in_channels=[128,128,128,128]',
            'model.decode_head.decoder_channels=[8,8,8,8]',
            'model.data_preprocessor.size=(64,64)',
        )

    run('silent')
    assert len([*tmp_path.rglob('p.png')]) == 3, 'A, B and label'
    out = tmp_path / 'out'
    run('shown', '--show-dir', str(out), '--report', str(tmp_path / 'report'))
    assert sorted(path.name for path in out.iterdir()) == ['p.png', 'q.png']
    page = (tmp_path / 'report' / 'report.html').read_text()
    for value in read_figures(tmp_path / 'shown' / 'metrics.json').values():
        assert f'<td>{figure(value)}</td>' in page
    assert all(text in page for text in ('q.png</b>', 'Calibration', 'first date of p.png'))
    picture = cv2.imread(str(out / 'p.png'))
    first, second, truth, prediction = tiles(picture, 4)
    assert (first == colours['A']).all() and (second == colours['B']).all()
    assert (truth[:, :230] < 9).all() and (truth[:, 250:] > 246).all()
    assert set(np.unique(prediction[20:-20:6, 20:-20:6]) // 128) <= {0, 1}
    assert np.ptp(prediction, axis=-1).max() == 0


def test_scenes_name_both_classes():
    def picture(label):
        sample = (
            DataSample()
            .set_gt_label(0)
            .set_pred_label(label)
            .set_pred_score(torch.tensor([0.4, 0.6]))
        )
        return draw_result([GREY], sample, META)

    right, wrong = picture(0), picture(1)
    assert right.shape == wrong.shape
    differing = np.nonzero((right != wrong).any(axis=(1, 2)))[0]
    assert CAPTION <= differing.min() and differing.max() < 2 * CAPTION, 'the line of predictions'


def test_areas_with_and_without_truth():
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.ones(1, SIDE, SIDE).long()))
    assert draw_result([GREY], sample, META).shape[1] == MARGIN + 2 * (SIDE + MARGIN)
    seg_map = torch.zeros(1, SIDE, SIDE).long()
    seg_map[:, 100:200] = 255
    sample.gt_sem_seg = PixelData(data=seg_map)
    image, truth, prediction = tiles(draw_result([GREY], sample, META), 3)
    assert (image == 128).all()
    assert (truth[100:200] == 128).all() and (prediction == prediction[0, 0]).all()
    assert truth[0, 0].tolist() == pytest.approx([204, 51, 51], abs=1)
    assert prediction[0, 0].tolist() == pytest.approx([51, 51, 204], abs=1)


@pytest.mark.parametrize(
    'boxes',
    [
        HorizontalBoxes(torch.tensor([[100.0, 100, 200, 200]])),
        RotatedBoxes(torch.tensor([[150.0, 150, 100, 100, 0.3]])),
    ],
)
def test_objects_with_and_without_truth(boxes):
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=boxes, labels=torch.tensor([1]), scores=torch.tensor([0.9])
        )
    )
    sample.gt_instances = InstanceData()  # as mmdet packs an image without labels
    meta = dict(classes=META['classes'], palette=META['palette'][:1])  # shorter than the classes
    alone = draw_result([GREY], sample, meta)
    assert alone.shape[:2] == (MARGIN + SIDE + 2 * CAPTION + 18, MARGIN + 2 * (SIDE + MARGIN))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0]))
    assert draw_result([GREY], sample, meta).shape[0] == MARGIN + 2 * (SIDE + CAPTION)
    with pytest.raises(ValueError, match='a sample of InstanceData cannot be drawn'):
        draw_result([GREY], sample.gt_instances, meta)
