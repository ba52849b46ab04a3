"""Which GPU a process sees."""
import pytest

from mtp.cli.own_gpu import show_own_gpu


@pytest.mark.parametrize(('launcher', 'variable'), [
    ('pytorch', 'LOCAL_RANK'), ('slurm', 'SLURM_LOCALID')])
@pytest.mark.parametrize(('visible', 'number', 'expected'), [
    ('4,5', 1, '5'), ('GPU-a,MIG-b', 0, 'GPU-a'), (None, 2, '2'),
    ('4,5', 2, None), ('', 0, None), (None, 3, None)])
def test_a_process_sees_its_own_gpu(launcher, variable, visible, number, expected, tmp_path):
    for name in ('nvidia0', 'nvidia1', 'nvidia2', 'nvidiactl', 'nvidia-uvm', 'nvme0'):
        (tmp_path / name).touch()
    environment = {variable: str(number), 'OTHER': '7'}
    if visible is not None:
        environment['CUDA_VISIBLE_DEVICES'] = visible
    before = dict(environment)
    show_own_gpu(launcher, environment, tmp_path)
    if expected is None:  # it has none: for others to tell
        assert environment == before
    else:
        assert environment == before | {'CUDA_VISIBLE_DEVICES': expected, variable: '0'}


def test_a_single_process_sees_all(tmp_path):
    environment = {'LOCAL_RANK': '1', 'CUDA_VISIBLE_DEVICES': '0,1'}
    show_own_gpu('none', environment, tmp_path)
    assert environment == {'LOCAL_RANK': '1', 'CUDA_VISIBLE_DEVICES': '0,1'}
