"""Logging, checkpoints and seeds of a pretraining run: by iterations, with losses per task."""

from mmengine.config import read_base

from mtp.engine import CheckDatasetsHook, ExportEncoderHook, TaskLossLogProcessor

with read_base():
    from ..common import *

default_scope = 'mtp'

default_hooks.update(
    check_datasets=dict(type=CheckDatasetsHook), export_encoder=dict(type=ExportEncoderHook)
)
default_hooks.logger.update(log_metric_by_epoch=False)
default_hooks.checkpoint.update(by_epoch=False, interval=5000)

log_processor = dict(type=TaskLossLogProcessor, window_size=50, by_epoch=False)
