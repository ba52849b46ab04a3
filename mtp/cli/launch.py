"""From command-line options to a runner, for all tools."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import init_default_scope

from mtp.cli.arguments import RunOptions
from mtp.cli.config import default_work_dir, override, read_config
from mtp.cli.config_check import check_config
from mtp.cli.processes import join_processes
from mtp.engine.runner import Runner
from mtp.files import json_text, write_text
from mtp.recipes import multispectral


def load_config(options: RunOptions) -> Config:
    """Return the config of a run, with its options applied.

    Raises:
        FileNotFoundError: no such config.
        ValueError: the config cannot be read or has a misspelt key, an option has an unknown key,
            or this process was not started as its launcher requires.
    """
    cfg = read_config(options.config)
    override(cfg, options.cfg_options)
    check_config(cfg)
    cfg.work_dir = str(options.work_dir or default_work_dir(cfg.filename))
    cfg.launcher = options.launcher
    join_processes(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build a runner, which writes the resolved config into its work directory.

    Raises:
        UnusableFileError: the parts of the config are for different numbers of bands.
    """
    init_default_scope(cfg.get('default_scope', 'mtp'))
    notes = multispectral.adapt(cfg)
    runner = Runner.from_cfg(cfg)
    for line in notes:
        runner.say(line)
    return runner


def evaluate(runner: Runner) -> dict[str, float]:
    """Evaluate a runner's model, and write the metrics to ``<work dir>/metrics.json``."""
    metrics = runner.test()
    if is_main_process():
        path = Path(runner.work_dir) / 'metrics.json'
        write_text(path, json_text(metrics, indent=1, default=float) + '\n')
        runner.logger.info(f'Metrics written to {path}')
    return metrics
