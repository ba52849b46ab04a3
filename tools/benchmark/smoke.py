"""Check that training works on the machine at hand; print PASS or FAIL for each check.

    python tools/benchmark/smoke.py OUT

It is meant for a GPU, where it takes some six minutes from a cold cache. Without one it runs the
same checks on the CPU, without compilation. The demo trains in one process, compiled and not, in
float32 and bfloat16, without dropout and drop path. Its losses are compared with those that a CPU
found in float32 (``smoke_losses.json``; ``--record`` writes them anew). The other checks run in
other processes, which find the code that this one compiled. Results also go to
``OUT/smoke.jsonl``.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mtp import resources
from mtp.cli.arguments import RunOptions, add_device
from mtp.cli.errors import users_errors
from mtp.cli.own_gpu import choose_device
from mtp.files import read_figures

REPO = Path(__file__).resolve().parents[2]
CONFIG = resources.configs() / 'pretrain' / 'vit_tiny_rvsa_demo.py'
RECORDED = Path(__file__).with_name('smoke_losses.json')
ITERATIONS = 50
# Without randomness, in which devices differ, and without 50 steps of warm-up.
STILL = {
    'model.backbone.drop_path_rate': 0.0,
    'model.tasks.semantic.dropout_ratio': 0.0,
    'param_scheduler': None,
}


class Smoke:
    """The checks; they share a folder, its data and its cache of compiled code.

    Args:
        out: folder for all output.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self.data = self.out / 'data'
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = str(self.out / 'compile_cache')
        import torch

        self.gpus = torch.cuda.device_count()

    def checks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield name and function of each check; a function returns a text to print, or raises."""
        yield 'start', self.start
        for amp in ('off', 'on'):
            for compiled in ('off', 'on') if self.gpus else ('off',):
                yield (
                    f'losses, bfloat16 {amp}, compilation {compiled}',
                    partial(self.losses, amp, compiled),
                )
        if self.gpus:
            yield 'captured steps', self.captured
        yield 'stop and resume', self.resume
        yield 'tools/test.py', self.evaluation
        yield 'operators', self.operators
        for processes in (1, 2) if self.gpus != 1 else (1,):
            for wrapper in ('ReplicatedModel', 'ShardedModel'):
                yield (
                    f'torchrun, {processes} processes, {wrapper}',
                    partial(self.torchrun, processes, wrapper),
                )

    def train(self, name: str, iterations: int, **options) -> list[float]:
        """Train the demo, and return the loss of each iteration."""
        from mtp.cli import launch
        from mtp.cli.config import override
        from mtp.engine.batch_size import share_batch

        cfg = launch.load_config(RunOptions(CONFIG, self.out / name))
        for kind in ('train', 'val', 'test'):
            for dataset in cfg[f'{kind}_dataloader'].dataset.datasets:
                dataset.data_root = str(self.data / Path(dataset.data_root).name)
        override(
            cfg,
            {
                'experiment_name': name,
                'train_cfg.max_iters': iterations,
                'train_cfg.val_interval': iterations + 1,
                'default_hooks.logger.interval': 5,
                **STILL,
                **options,
            },
        )
        share_batch(cfg, processes=1)
        self.runner = runner = launch.build_runner(cfg)
        runner.train()
        return runner.message_hub.get_scalar('train/loss').data[0].tolist()

    def start(self) -> str:
        """Train three iterations as a user would."""
        from mtp.fallback import fallen

        losses = self.train('start', 3)
        if not all(map(math.isfinite, losses)) or fallen():
            raise RuntimeError(f'losses {losses}, fallen back: {fallen()}')
        return f'losses {losses}'

    def captured(self) -> str:
        """Compare losses of captured steps; fail if none was replayed."""
        text = self.losses('off', 'on', 'on')
        from mtp.engine import CaptureHook

        hooks = [hook for hook in self.runner.hooks if isinstance(hook, CaptureHook)]
        replays = sum(hook.steps.replays for hook in hooks if hook.steps)
        if not replays:
            raise RuntimeError(f'0 replays in {ITERATIONS} steps; {text}')
        return f'{replays} of {ITERATIONS} steps replayed; {text}'

    def losses(self, amp: str, compiled: str, captured: str = 'off') -> str:
        """Compare losses with the recorded ones: the first, and the mean of the last ten."""
        found = self.train(
            f'amp_{amp}_compile_{compiled}_graphs_{captured}',
            ITERATIONS,
            **{
                'optim_wrapper.amp': amp,
                'default_hooks.compilation.mode': compiled,
                'default_hooks.capture.mode': captured,
            },
        )
        expected = json.loads(RECORDED.read_text())
        first = abs(found[0] / expected[0] - 1)
        last = abs(sum(found[-10:]) / sum(expected[-10:]) - 1)
        text = f'first {found[0]:.4f}, {first:.1%} apart; last ten {last:.1%} apart'
        if first > (2e-2 if amp == 'on' else 2e-3) or last > 0.15:
            raise RuntimeError(text)
        return text

    def resume(self) -> str:
        """Go on from a checkpoint as if there had been no interruption."""
        settings = {'default_hooks.checkpoint.interval': 2}
        expected = self.train('whole', 4, **settings)
        found = self.train(
            'resumed', 4, **settings, resume=True, load_from=str(self.out / 'whole' / 'iter_2.pth')
        )[-2:]
        apart = max(abs(a / b - 1) for a, b in zip(found, expected[-2:]))
        if apart > 1e-2:
            raise RuntimeError(f'{found} instead of {expected[-2:]}')
        return f'losses {apart:.2%} apart'

    def evaluation(self) -> str:
        """Evaluate a checkpoint of :meth:`resume`."""
        folder = self.out / 'test'
        self.command(
            'tools/test.py',
            str(CONFIG),
            str(self.out / 'whole' / 'iter_4.pth'),
            '--work-dir',
            str(folder),
            *self.data_options('test'),
        )
        metrics = read_figures(folder / 'metrics.json')
        # others may be undefined: an angle's error where nothing was found, say
        if not math.isfinite(metrics['average']):
            raise RuntimeError(f'metrics {metrics}')
        return f'{len(metrics)} metrics'

    def operators(self) -> str:
        """Run the tests of the operators."""
        lines = self.command(
            '-m', 'pytest', '-q', '--numprocesses', '4', '-m', 'not slow', 'tests/ops'
        )
        return lines.strip().splitlines()[-1]

    def torchrun(self, processes: int, wrapper: str) -> str:
        """Train four iterations with several processes."""
        self.command(
            '-m',
            'torch.distributed.run',
            '--standalone',
            f'--nproc_per_node={processes}',
            'tools/train.py',
            str(CONFIG),
            '--launcher',
            'pytorch',
            '--work-dir',
            str(self.out / f'{wrapper}_{processes}'),
            *self.data_options('train', 'val'),
            'train_cfg.max_iters=4',
            'train_cfg.val_interval=9',
            'param_scheduler=None',
            f'model_wrapper_cfg.type=mtp.engine.{wrapper}',
        )
        return ''

    def data_options(self, *kinds: str) -> list[str]:
        """Return the options that point the demo's loaders to the data."""
        return [
            '--cfg-options',
            *(
                f'{kind}_dataloader.dataset.datasets.{index}.data_root={self.data / name}'
                for kind in kinds
                for index, name in enumerate(('SOTA', 'SIOR', 'FAST'))
            ),
        ]

    def command(self, *arguments: str) -> str:
        """Run Python in the checkout, and return its output; raises where it fails."""
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=REPO,
            text=True,
            timeout=300,
            capture_output=True,
            check=False,
            env={**os.environ, 'PYTHONPATH': str(REPO)},
        )
        if result.returncode:
            lines = (result.stdout + result.stderr).strip().splitlines()
            # torchrun ends with lines of its own
            errors = [line for line in lines if 'Error: ' in line and 'ChildFailed' not in line]
            raise RuntimeError(' | '.join(errors[-3:] or lines[-3:]))
        return result.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to write to')
    parser.add_argument(
        '--record',
        action='store_true',
        help='record the losses of this machine as the ones to compare with',
    )
    add_device(parser)
    options = parser.parse_args()
    with users_errors():
        choose_device(options.device)  # before torch starts
        from mtp.engine.devices import require_usable_gpu

        require_usable_gpu(options.device)
    smoke = Smoke(options.out)
    if not smoke.data.exists():
        from mtp.data.synthetic import make_samrs

        make_samrs(smoke.data, 40, 8, 128, 0)
    if options.record:
        losses = smoke.train(
            'recorded',
            ITERATIONS,
            **{'optim_wrapper.amp': 'off', 'default_hooks.compilation.mode': 'off'},
        )
        RECORDED.write_text(json.dumps([round(loss, 5) for loss in losses]) + '\n')
        return 0
    failed = 0
    for name, check in smoke.checks():
        begun = time.perf_counter()
        try:
            row = {'check': name, 'passed': True, 'text': check()}
        except Exception as error:
            row = {'check': name, 'passed': False, 'text': f'{type(error).__name__}: {error}'}
            failed += 1
        row['seconds'] = round(time.perf_counter() - begun, 1)
        print(
            f'{"PASS" if row["passed"] else "FAIL"}  {name} ({row["seconds"]} s)  {row["text"]}',
            flush=True,
        )
        with open(smoke.out / 'smoke.jsonl', 'a') as file:
            file.write(json.dumps(row) + '\n')
    return min(failed, 1)


if __name__ == '__main__':
    sys.exit(main())
