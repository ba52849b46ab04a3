"""Images of more bands are trained on by the config that is written for them."""

import cv2
import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mtp.cli.own_training import Request, own_config
from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.inspection import inspect, report
from mtp.data.own.recognition import recognise
from mtp.recipes import multispectral
from tests.test_own_data import dota, maps, pairs

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def to_uint16(root):
    """Write five bands of 16 bits in place of the images."""
    for folder in ('images', 'A', 'B'):
        for path in sorted((root / folder).glob('*.png')):
            height, width = cv2.imread(str(path)).shape[:2]
            values = np.random.default_rng(int(path.stem)).integers(900, 1100, (5, height, width))
            path.unlink()
            with rasterio.open(
                path.with_suffix('.tif'), 'w', 'GTiff', width, height, 5, dtype='uint16', nodata=0
            ) as file:
                file.write(values.astype(np.uint16))


@pytest.mark.parametrize('make', [dota, maps, pairs], ids=lambda make: make.__name__)
def test_five_bands_of_16_bits(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'mine')
    to_uint16(tmp_path / 'mine')
    data = read_data(recognise(tmp_path / 'mine'))
    assert 'bands: 5 bands of uint16 (6)' in report(inspect(data))
    import_data(data, tmp_path / 'made', Options(0.7, bands=(4, 3, 2, 5)))
    path, _, _ = own_config(Request([tmp_path / 'made'], 'vit_tiny_rvsa', 'none'))
    cfg = Config.fromfile(path)
    assert bool(multispectral.adapt(cfg)) == (make is not dota)  # where colour is augmented
    init_default_scope(cfg.default_scope)
    assert cfg.model.backbone.in_chans == 4
    preprocessor = cfg.model.data_preprocessor
    assert [round(v, -2) for v in preprocessor.mean] == [1000] * 4
    assert [round(v, -1) for v in preprocessor.std] == [60] * 4
    for split in ('train', 'val'):
        image = DATASETS.build(cfg[f'{split}_dataloader'].dataset)[0]['inputs']
        assert image.shape[0] == (8 if make is pairs else 4) and image.max() > 1000
