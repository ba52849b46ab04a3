"""The README begins with lines that run on what the quickstart leaves."""

import re

import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from PIL import Image

from mtp.cli.main import main
from mtp.data.samrs.synthesis import make_samrs
from tests.conftest import REPO
from tests.prediction.small import config_of, save

pytestmark = pytest.mark.usefixtures('few_objects')


def test_the_first_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (REPO / 'README.md').read_text()
    code, command = re.findall(r'^```(?:python|bash)\n(.*?)^```', page, re.M | re.S)[:2]
    (checkpoint,) = re.findall(r"mtp.load\('(.+?)'\)", code)
    (image,) = re.findall(r"model\('(.+?)'", code)
    quickstart = (REPO / 'tools' / 'quickstart.sh').read_text()
    (work_dir,) = re.findall(r'^work_dir=(.+)$', quickstart, re.M)
    (config,) = re.findall(r'^config=(.+)$', quickstart, re.M)
    last = Config.fromfile(REPO / config).train_cfg.max_iters
    assert checkpoint == f'{work_dir}/iter_{last}.pth'

    cfg = config_of('pretraining', tmp_path / 'small')
    cfg.model.datasets = dict(sota=cfg.model.datasets.mine)
    for each in cfg.train_dataloader.dataset.datasets:
        each.name = 'sota'
    (tmp_path / checkpoint).parent.mkdir(parents=True)
    save(cfg, tmp_path / checkpoint)
    make_samrs('data/synthetic', num_train=1, num_valid=0)
    pixels = np.array(Image.open(image))
    exec(code, {})
    assert Image.open('found.png').size[0] > pixels.shape[1]

    profile = dict(crs='EPSG:32632', transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000))
    size = pixels.shape[1::-1]
    with rasterio.open('scene.tif', 'w', 'GTiff', *size, 3, dtype='uint8', **profile) as file:
        file.write(pixels.transpose(2, 0, 1))
    program, *arguments = command.partition('#')[0].split()
    assert program == 'mtp'
    main(arguments)
    found = {path.name for path in (tmp_path / 'found').iterdir()}
    assert {'scene.sota.rotated.geojson', 'scene.sota.semantic.tif'} <= found
