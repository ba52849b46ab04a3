"""How many objects there are and where, as a density map: the row of the table of labels."""

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import PixelData

from mtp.data.index import Column
from mtp.registry import LABELS
from mtp.sample_fields import Label, Map

SIGMA = 4  # pixels that an object is spread over


@LABELS.register_module()
class DensityLabel(Label):
    """A map, float32, whose sum is the number of objects, each spread around its centre."""

    task = name = 'density'
    key = 'gt_density'
    fields = {'gt_density': Map('density', padding=0, dtype=torch.float32)}
    columns = {'centres': Column('centre', np.float32, (2,))}

    def read(self, dataset, image, annotations):
        x, y, width, height = (
            np.array([annotation['bbox'] for annotation in annotations], np.float32)
            .reshape(-1, 4)
            .T
        )
        return dict(centres=np.stack([x + width / 2, y + height / 2], 1))

    def load(self, results):
        results[self.key] = spread(results['labels'].centres, results['ori_shape'])

    def crop(self, results, window):
        points = np.pad(results['labels'].centres, ((0, 0), (0, 3)))  # boxes without an extent
        results[self.key] = spread(window.crop_rotated(points)[0][:, :2], window.shape)

    def flip(self, results):
        results[self.key] = mmcv.imflip(results[self.key], results['flip_direction'])

    def resize(self, results):
        before = results[self.key]
        after = cv2.resize(before, results['img_shape'][::-1])
        results[self.key] = after * (before.size / after.size)

    def cut(self, results):
        left, top = (-results['homography_matrix'][:2, 2]).astype(int)
        height, width = results['img_shape']
        results[self.key] = results[self.key][top : top + height, left : left + width]

    def pack(self, results):
        density = np.ascontiguousarray(results[self.key])
        return dict(gt_density=PixelData(density=torch.from_numpy(density)[None]))

    def draw(self, tile, content, scale, meta):
        density = content.density[0].cpu().numpy()
        heat = cv2.resize(density / max(density.max(), 1e-6), tile.shape[1::-1])[..., None]
        tile[:] = tile * (1 - heat) + np.array((255, 0, 0)) * heat
        return set()


def spread(points, shape):
    density = np.zeros(shape, np.float32)
    x, y = np.minimum(points.astype(int), (shape[1] - 1, shape[0] - 1)).T
    np.add.at(density, (y, x), 1)
    return cv2.GaussianBlur(density, (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT)
