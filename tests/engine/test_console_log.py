"""The console shows what a user reads, the log file everything."""

import io
import sys
from pathlib import Path

from tests.engine.hooks.test_training import toy_runner

START = ('Model', 'Weights', 'Training data', 'Batch', 'Device', 'Precision', 'Schedule')


def test_a_training_starts_with_a_few_lines(tmp_path, capsys):
    runner = toy_runner(tmp_path)
    runner.train()
    lines = [line.rpartition(' - ')[2] for line in capsys.readouterr().out.splitlines()]
    (first_loss,) = (i for i, line in enumerate(lines) if 'Iter(train) [2/6]' in line)
    assert first_loss < 15
    assert [line.partition(': ')[0] for line in lines[: len(START)]] == [*START]
    assert lines[2] == 'Training data: images 7'
    assert lines[3] == 'Batch: 2 images a step (1 process x 2 images)'
    assert lines[6] == 'Schedule: 6 steps, 1.5 times through the data'
    assert not any('Exp name' in line for line in lines)
    text = next(Path(tmp_path).glob('*/*.log')).read_text()
    assert 'System environment' in text and 'train_dataloader = dict(' in text
    assert all(line in text for line in lines[:first_loss])


def test_a_resumed_run_and_a_test_say_which_weights(tmp_path, capsys):
    toy_runner(tmp_path / 'first', train_cfg=dict(max_iters=3)).train()
    checkpoint = str(tmp_path / 'first' / 'iter_3.pth')
    toy_runner(tmp_path / 'second', resume=True, load_from=checkpoint).train()
    toy_runner(tmp_path / 'test', load_from=checkpoint).test()
    shown = capsys.readouterr().out
    assert f'Weights: of {checkpoint}, resumed after 3 steps' in shown
    assert f'Weights: of {checkpoint}\n' in shown and 'Test data: images 7' in shown
    assert 'mean: ' in shown, 'the figures of a metric without a table'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars_in_place_of_lines(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stdout', terminal)
    runner = toy_runner(tmp_path)
    runner.train()
    runner.test()
    shown = terminal.getvalue()
    assert 'Iter(train)' not in shown and 'Work directory: ' in shown
    assert 'train: 100%' in shown and ', loss ' in shown and 'test: 100%' in shown
    assert next(Path(tmp_path).glob('*/*.log')).read_text().count('Iter(train)') == 3
