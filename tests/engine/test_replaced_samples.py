"""A training sample that cannot be read is replaced, the same everywhere, counted and listed."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mtp.data import unreadable_samples
from mtp.data.multitask_dataset import MultiTaskDataset
from mtp.data.sample_seeds import SeededDataset, SeededIndex
from mtp.engine import ReplacedSamplesError
from mtp.engine.shards import whole_state_dict
from mtp.files import UnusableFileError
from tests.distributed import run_processes
from tests.engine.hooks.test_training import toy_runner
from tests.engine.test_exact_resume import Record
from tests.tools.toy import NoisyDataset, ToyModel


class Model(ToyModel):
    """The toy model, given samples too."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(inputs, mode)


class Files(NoisyDataset):
    """Vectors with a file each; some cannot be read, or end who reads them."""

    def __init__(self, folder: str = '', bad: tuple = (), kills: dict | None = None) -> None:
        self.folder, self.bad, self.kills = folder, bad, kills or {}

    def get_data_info(self, index: int) -> dict:
        return dict(super().get_data_info(index), img_path=f'{self.folder}/{index}.png')

    def __getitem__(self, index: int) -> dict:
        path = self.get_data_info(index)['img_path']
        if index in self.bad:
            error = UnusableFileError(f'{path} is no readable image')
            error.path = path
            raise error
        if index in self.kills:
            told = Path(f'{self.folder}/{index}.deaths')
            deaths = len(told.read_text()) if told.exists() else 0
            if deaths < self.kills[index]:
                told.write_text('x' * (deaths + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        sample = BaseDataElement(metainfo=dict(img_path=path))
        return dict(super().__getitem__(index), data_samples=sample)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(unreadable_samples, 'PAUSES', (0, 0))
    # how often a loader looks for dead workers, seconds
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, '__defaults__', (0.3,))


class Failing(Files):
    """The second image raises one error after the other."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__('folder')
        self.errors = list(errors)

    def __getitem__(self, index: int) -> dict:
        if index == 1 and self.errors:
            raise self.errors.pop(0)
        return super().__getitem__(index)


def system(number: int = errno.EIO) -> OSError:
    return OSError(number, 'the system says no', 'folder/1.png')


@pytest.mark.parametrize('errors', [[system()], [system(), system()]])
def test_an_error_of_the_system_is_waited_out(errors):
    sample = SeededDataset(Failing(*errors))[SeededIndex(1, 5)]['data_samples']
    assert sample.img_path == 'folder/1.png' and 'replaced_samples' not in sample


@pytest.mark.parametrize(
    'errors', [[system()] * 3, [UnusableFileError('folder/1.png is damaged')], [OSError('cut')]]
)
def test_a_bad_file_is_replaced_by_a_function_of_the_seed(errors):
    found = set()
    for seed in range(12):
        first, again = (
            SeededDataset(Failing(*errors))[SeededIndex(1, seed)]['data_samples'] for _ in range(2)
        )
        ((file, reason),) = first.replaced_samples
        assert file == 'folder/1.png' and str(errors[0]).split()[-1].strip("'") in reason
        assert (first.img_path, first.sample_seed) == (again.img_path, seed)
        found.add(first.img_path)
    assert len(found) > 3


@pytest.mark.parametrize(
    'error', [TypeError('a fault of the transform'), system(errno.EMFILE), KeyError('img')]
)
def test_faults_of_program_config_and_process_end_the_run(error):
    with pytest.raises(type(error)):
        SeededDataset(Failing(error))[SeededIndex(1, 5)]


def test_nothing_is_replaced_in_evaluation_nor_where_nothing_can_be_read(tmp_path):
    dataset = SeededDataset(Files('folder', bad=range(7)))
    for index in (3, SeededIndex(3, 5)):
        with pytest.raises(UnusableFileError, match=r'folder/3\.png'):
            dataset[index]


def test_pretraining_replaces_within_the_data_set():
    parts = [Files(name, bad=bad) for name, bad in (('one', ()), ('two', (0, 1, 2, 3)))]
    for part, name in zip(parts, ('one', 'two')):
        part.metainfo = dict(name=name)
    dataset = SeededDataset(MultiTaskDataset(parts))
    samples = [dataset[8, seed]['data_samples'] for seed in range(5)]
    assert all(sample.img_path.startswith('two/') for sample in samples)
    assert samples[0].sample_seed == 0 and samples[0].replaced_samples[0][0] == 'two/1.png'


def train(work_dir, folder, record=None, **settings):
    dataset = {key: settings.pop(key) for key in ('bad', 'kills') if key in settings}
    runner = toy_runner(
        work_dir,
        **{
            'model.type': Model,
            'train_dataloader.dataset': dict(type=Files, folder=str(folder), **dataset),
            'train_dataloader.batch_size': 2,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            **settings,
        },
    )
    if record is not None:
        runner.register_hook(record)
    runner.train()
    return runner


def images(record: Record) -> list:
    return [call[-1] for call in record.calls if call[0] == 'before_train_iter']


def weights(runner) -> dict:
    return whole_state_dict(runner.bare_model)


def equal(one: dict, two: dict) -> bool:
    return all(torch.equal(one[key], two[key]) for key in one)


def listed(work_dir: Path) -> dict:
    return json.loads((work_dir / 'replaced_samples.json').read_text())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    record = Record()
    return folder, train(folder, 'images', record, bad=(2, 5)), images(record)


def test_count_and_list_are_those_of_any_number_of_workers_and_of_a_resumed_run(whole, tmp_path):
    folder, run, seen = whole
    told = listed(folder)
    number = told['replaced_samples']
    assert set(told['files']) == {'images/2.png', 'images/5.png'} and number >= 2
    assert sum(facts['samples'] for facts in told['files'].values()) == number
    assert run.message_hub.get_scalar('train/replaced_samples').current() == number
    log = [json.loads(line) for line in next(folder.rglob('scalars.json')).open()]
    assert log[-1]['replaced_samples'] == number
    record = Record()
    train(tmp_path / 'workers', 'images', record, bad=(2, 5), **{'train_dataloader.num_workers': 2})
    assert images(record) == seen and listed(tmp_path / 'workers') == told
    resumed = train(
        tmp_path / 'resumed', 'images', bad=(2, 5), resume=True, load_from=f'{folder}/iter_4.pth'
    )
    assert listed(tmp_path / 'resumed') == told and equal(weights(resumed), weights(run))


def test_a_run_ends_above_the_limit_and_names_the_files(tmp_path):
    with pytest.raises(ReplacedSamplesError, match=r'^2 files .* the 1 .*images/2\.png.*images/5'):
        train(tmp_path, 'images', bad=(2, 5), **{'default_hooks.replaced_samples.at_least': 1})


@pytest.mark.parametrize('accumulation', [1, 2])
def test_a_run_outlasts_its_workers(tmp_path, accumulation):
    settings = {'train_cfg.accumulation': accumulation, 'train_dataloader.num_workers': 2}
    runs, records = [], []
    for name, kills in (('whole', {}), ('died', {1: 1, 4: 1})):
        (tmp_path / name).mkdir()
        records.append(Record())
        runs.append(
            train(tmp_path / f'{name}_run', tmp_path / name, records[-1], kills=kills, **settings)
        )
    assert images(records[0]) == images(records[1])
    assert equal(*map(weights, runs)) and (tmp_path / 'died/4.deaths').exists()
    assert not (tmp_path / 'died_run/replaced_samples.json').exists()


def test_a_sample_that_kills_its_worker_twice_is_replaced_like_a_bad_one(whole, tmp_path):
    record = Record()
    settings = {'train_dataloader.num_workers': 1, 'train_cfg.max_iters': 3}
    train(tmp_path / 'run', tmp_path, record, bad=(5,), kills={2: 99}, **settings)
    assert images(record) == whole[2][:3]
    files = listed(tmp_path / 'run')['files']
    assert 'two workers ended' in files[f'{tmp_path}/2.png']['reason']


def _on_two(rank: int, folder: Path) -> tuple[list, dict, dict]:
    record, settings = Record(), {'launcher': 'pytorch', 'train_dataloader.batch_size': 1}
    settings['env_cfg.dist_cfg.backend'] = 'gloo'
    run = train(folder, 'images', record, bad=(2, 5), **settings)
    return images(record), listed(folder), whole_state_dict(run.bare_model)


@pytest.mark.slow
def test_two_processes_replace_what_one_replaces(whole, tmp_path):
    (first, told, _), (second, _, _) = run_processes(_on_two, 2, tmp_path)
    assert [one + two for one, two in zip(first, second)] == whole[2]
    assert told == listed(whole[0])
