"""Compare two commits: the resolved configs, and the losses and metrics of short runs.

    python tools/benchmark/compare_losses.py OLD NEW

Every config of configs/pretrain and configs/finetune is resolved in both commits. Old names, those
listed in mtp/old_names.py of NEW, are equal to the new ones. Then tiny models train for three
iterations on a CPU, in float32 and without compilation, in one process and in two, and are tested.
All logged and measured figures must be equal to the last digit. Runs on real data are left out
where data/real is missing (tools/data/real_samples.py makes it).

Results are written below --out at once: started again after an interruption, the command skips
finished work. The exit code is 1 where something differs or fails. The checkouts below --out are
git worktrees: `git worktree remove` removes them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from commits.differences import Renamed, differences, read_figures

REPO = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name('commits') / 'probe.py'
PROCESSES, STEPS = (1, 2), 3
# task -> its recipe to run; together both families of backbones, and one without windows
RECIPES = {
    'classification': 'eurosat/internimage_xl',
    'segmentation': 'spacenet_v1/vit_l',
    'change_detection': 'oscd/vit_b_rvsa',
    'horizontal_detection': 'dior/internimage_xl',
    'rotated_detection': 'dior_r/vit_b_rvsa',
}
# run -> its config below configs, by today's name
RUNS = {
    'demo': 'pretrain/vit_tiny_rvsa_demo.py',
    **{
        path.stem: f'finetune/tiny/{path.name}'
        for path in sorted((REPO / 'configs' / 'finetune' / 'tiny').glob('*.py'))
    },
    **{f'{task}_recipe': f'finetune/{task}/{recipe}.py' for task, recipe in RECIPES.items()},
}


class RunError(Exception):
    """Failure of a command; the message names its log."""


class Skipped(Exception):
    """Reason why a run cannot be made here."""


@dataclass(frozen=True)
class Commit:
    """A commit with its checkout.

    Attributes:
        name: ``OLD`` or ``NEW``.
        checkout: folder of its git worktree.
        folder: folder for the output of its runs.
        configs: today's path below ``configs`` -> path in this commit.
    """

    name: str
    checkout: Path
    folder: Path
    configs: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run to make in both commits.

    Attributes:
        name: key of ``RUNS``.
        processes: number of processes.
    """

    name: str
    processes: int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('old', metavar='OLD', help='commit to compare with')
    parser.add_argument('new', metavar='NEW', help='commit to compare')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/compare'),
        help='folder to work in (default: %(default)s)',
    )
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        choices=RUNS,
        default=list(RUNS),
        help=f'runs to make (default: all): {", ".join(RUNS)}',
    )
    parser.add_argument(
        '--configs-only', action='store_true', help='compare the configs, train nothing'
    )
    return parser.parse_args()


def git(*args: object) -> str:
    """Run git and return its output.

    Raises:
        RunError: git fails.
    """
    result = subprocess.run(
        ['git', '-C', REPO, *map(str, args)], text=True, capture_output=True, check=False
    )
    if result.returncode:
        raise RunError(result.stderr.strip())
    return result.stdout.strip()


def check_out(commit: str, out: Path) -> Path:
    """Return the worktree of a commit; make it if it is missing."""
    try:
        number = git('rev-parse', '--verify', f'{commit}^{{commit}}')
    except RunError as error:
        raise RunError(f'{commit} is not a commit of {REPO}: {error}') from error
    checkout = out / 'checkouts' / number
    if not checkout.is_dir():
        # --force: git may remember one that was removed by hand
        git('worktree', 'add', '--force', '--detach', checkout, number)
    return checkout


def python(checkout: Path, out: Path, log: Path, *args: object) -> None:
    """Run Python in ``out`` with the modules of a checkout; append its output to a log.

    Raises:
        RunError: the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'PYTHONPATH': str(checkout), 'CUDA_VISIBLE_DEVICES': ''}
    with log.open('a') as file:
        print('$ python', *args, file=file, flush=True)
        code = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=out,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        lines = log.read_text().strip().splitlines()
        # torchrun ends with lines of its own
        errors = [line for line in lines if 'rror: ' in line and 'ChildFailed' not in line]
        raise RunError(f'{(errors or lines)[-1]} (exit code {code}, {log})')


class Comparison:
    """Two commits, and the folder that both write to.

    Args:
        old: commit to compare with.
        new: commit to compare.
        out: folder for checkouts, data and runs.
    """

    def __init__(self, old: str, new: str, out: Path) -> None:
        self.out = out.absolute()
        self.out.mkdir(parents=True, exist_ok=True)
        self.real = Path('data/real').absolute()
        checkouts = [check_out(commit, self.out) for commit in (old, new)]
        self.renamed = Renamed.read(checkouts[1])
        self.resolved = list(map(self._resolve, checkouts))
        self.commits = [
            Commit(
                name,
                checkout,
                self.out / 'runs' / checkout.name,
                {self.renamed.config(path): path for path in resolved},
            )
            for name, checkout, resolved in zip(('OLD', 'NEW'), checkouts, self.resolved)
        ]

    def _resolve(self, checkout: Path) -> dict[str, dict[str, str]]:
        """Return the resolved configs of a commit, flattened, by their path below ``configs``."""
        target = self.out / 'configs' / f'{checkout.name}.json'
        if not target.is_file():
            python(
                checkout, self.out, target.with_suffix('.txt'), PROBE, 'configs', checkout, target
            )
        return json.loads(target.read_text())

    def compare_configs(self) -> bool:
        """Print differing configs, grouped by equal differences; return whether there are any."""
        paths = [commit.configs for commit in self.commits]
        found: dict[tuple[str, ...], list[str]] = {}
        for name in sorted({**paths[0], **paths[1]}):
            if name in paths[0] and name in paths[1]:
                lines = differences(
                    *(
                        resolved[of_commit[name]]
                        for resolved, of_commit in zip(self.resolved, paths)
                    ),
                    self.renamed,
                )
            else:
                lines = [f'in {"OLD" if name in paths[0] else "NEW"} only']
            found.setdefault(tuple(lines), []).append(name)
        equal = found.pop((), [])
        for lines, names in found.items():
            print(*names, *(f'    {line}' for line in lines), sep='\n')
        differ = sum(map(len, found.values()))
        print(f'configs: {len(equal)} equal, {differ} differ', flush=True)
        return bool(found)

    def compare_run(self, run: Run) -> bool:
        """Make and print a run of both commits; return whether figures differ or one fails."""
        try:
            self._make_data(run)
            old, new = (self._figures(commit, run) for commit in self.commits)
        except Skipped as reason:
            return _report(run, f'left out: {reason}', False)
        except (RunError, ValueError) as error:
            return _report(run, f'FAILED: {error}', True)
        lines = differences(old, new)
        if lines:
            return _report(
                run, f'{len(lines)} of {len({**old, **new})} figures DIFFER, first {lines[0]}', True
            )
        return _report(run, f'equal, {len(old)} figures', False)

    def _make_data(self, run: Run) -> None:
        """Make the data of a run with the tools of OLD, where its configs look for them."""
        config, data = RUNS[run.name], self.out / 'data'
        for commit in self.commits:
            if config not in commit.configs:
                raise Skipped(f'no {config} in {commit.name}')
        if config.startswith('finetune/tiny'):
            if not self.real.is_dir():
                raise Skipped(f'no {self.real}, which tools/data/real_samples.py makes')
            data.mkdir(exist_ok=True)
            if not (data / 'real').is_symlink():
                (data / 'real').symlink_to(self.real)
            return
        name = 'synthetic' if run.name == 'demo' else Path(config).parent.name
        done = data / f'{name}.done'
        if done.is_file():
            return
        for folder in (data / name, data / 'source' / name):
            shutil.rmtree(folder, ignore_errors=True)
        for command in _data_commands(name):
            script, *arguments = command
            old = self.commits[0].checkout
            python(old, self.out, data / f'{name}.txt', old / 'tools' / 'data' / script, *arguments)
        done.touch()

    def _figures(self, commit: Commit, run: Run) -> dict[str, str]:
        """Return the figures of a run of a commit; make the run unless it is finished."""
        folder = commit.folder / f'{run.name}_{run.processes}'
        kept = folder / 'figures.json'
        if kept.is_file():
            return json.loads(kept.read_text())
        shutil.rmtree(folder, ignore_errors=True)  # start the unfinished run anew
        log, small = folder / 'log.txt', commit.folder / 'small' / f'{run.name}.py'
        tools = commit.checkout / 'tools'
        if not small.is_file():
            config = commit.checkout / 'configs' / commit.configs[RUNS[run.name]]
            python(commit.checkout, self.out, log, PROBE, 'small', config, small)
        start, launcher = [], []
        if run.processes > 1:
            start = [
                '-m',
                'torch.distributed.run',
                '--standalone',
                f'--nproc_per_node={run.processes}',
            ]
            launcher = ['--launcher', 'pytorch']
        python(
            commit.checkout,
            self.out,
            log,
            *start,
            tools / 'train.py',
            small,
            '--work-dir',
            folder,
            '--amp',
            'off',
            '--compile',
            'off',
            *launcher,
        )
        checkpoint = (folder / 'last_checkpoint').read_text()
        python(
            commit.checkout,
            self.out,
            log,
            *start,
            tools / 'test.py',
            small,
            checkpoint,
            '--work-dir',
            folder / 'test',
            *launcher,
        )
        figures = read_figures(folder, STEPS)
        unfinished = kept.with_suffix('.unfinished')
        unfinished.write_text(json.dumps(figures, indent=1))
        unfinished.replace(kept)
        return figures


def _data_commands(name: str) -> Iterator[tuple[object, ...]]:
    """Yield the scripts of ``tools/data`` that make a data set in ``data``, with arguments."""
    if name == 'synthetic':
        yield 'make_synthetic.py', 'data/synthetic', '--num-train', 6, '--num-valid', 2
    else:
        yield 'make_synthetic.py', f'data/source/{name}', '--dataset', name
        yield 'prepare.py', name, f'data/source/{name}', f'data/{name}'


def _report(run: Run, text: str, wrong: bool) -> bool:
    """Print a line of a run; return ``wrong``."""
    print(
        f'{run.name:<28}{run.processes} process{"es" if run.processes > 1 else "":<4}{text}',
        flush=True,
    )
    return wrong


def main() -> None:
    args = parse_args()
    try:
        comparison = Comparison(args.old, args.new, args.out)
    except RunError as error:
        raise SystemExit(f'error: {error}') from error
    wrong = [comparison.compare_configs()]
    if not args.configs_only:
        wrong += [
            comparison.compare_run(Run(name, processes))
            for name in args.only
            for processes in PROCESSES
        ]
    sys.exit(any(wrong))


if __name__ == '__main__':
    main()
