"""Files appear whole or not at all."""

import math
import os

import numpy as np
import pytest
import torch

from mtp.files import (
    json_text,
    put_in_place,
    read_figures,
    remove_unfinished,
    whole,
    write_json,
    write_text,
)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / 'sub' / 'a.txt'
    write_text(path, 'old')
    with pytest.raises(KeyboardInterrupt), whole(path) as unfinished:
        unfinished.write_text('half')
        assert unfinished.suffix == '.txt' and path.read_text() == 'old'
        raise KeyboardInterrupt
    assert path.read_text() == 'old' and names(tmp_path) == ['sub', 'sub/a.txt']
    write_json(path, {'a': [1]})
    assert path.read_text() == '{"a": [1]}'


def test_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, {'a': [1, float('nan')], 'b': {'c': np.float32('inf')}, 'd': 'NaN'})
    assert path.read_text() == '{"a": [1, null], "b": {"c": null}, "d": "NaN"}'
    text = json_text({'a': torch.tensor(float('nan')), 'b': torch.tensor(2.0)}, default=float)
    assert text == '{"a": null, "b": 2.0}'
    path.write_text(text)
    figures = read_figures(path)
    assert math.isnan(figures['a']) and figures['b'] == 2


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path, monkeypatch
):
    done = []
    monkeypatch.setattr(os, 'fsync', lambda file: done.append(os.readlink(f'/proc/self/fd/{file}')))
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda *args: (done.append('replace'), replace(*args)))
    write_text(tmp_path / 'a', 'text')
    (tmp_path / 'b.unfinished').mkdir()
    put_in_place(tmp_path / 'b.unfinished', tmp_path / 'b')
    unfinished, *rest = done
    assert unfinished.endswith('.partial.a')
    assert rest == ['replace', str(tmp_path), f'{tmp_path}/b.unfinished', 'replace', str(tmp_path)]


def test_a_file_must_reach_the_disk_and_a_folder_may_be_one_that_cannot_be_synced(
    tmp_path, monkeypatch
):
    def fsync(file):
        if file in failing or os.path.isdir(f'/proc/self/fd/{file}'):
            raise OSError('no fsync here')

    failing = ()
    monkeypatch.setattr(os, 'fsync', fsync)
    write_text(tmp_path / 'a', 'text')
    failing = range(1000)
    with pytest.raises(OSError, match='no fsync here'):
        write_text(tmp_path / 'b', 'text')
    assert names(tmp_path) == ['a']


def test_what_killed_writers_leave_is_removed(tmp_path):
    (tmp_path / 'sub').mkdir()
    for name in ('.1.partial.a', 'sub/.0a1b.partial.b', 'sub/.hidden', 'c.partial'):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ['c.partial', 'sub', 'sub/.hidden']
