"""How every run is logged, saved and seeded."""
from mmengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    RuntimeInfoHook,
)
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer

from mtp.engine import (
    CheckDatasetsHook,
    DrawPredictionsHook,
    ExportEncoderHook,
    SeedIterationHook,
    TaskLossLogProcessor,
)

default_scope = 'mtp'

default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook),
    timer=dict(type=IterTimerHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
    seed_iteration=dict(type=SeedIterationHook),
    check_datasets=dict(type=CheckDatasetsHook),
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    # Two are kept at least: while one is written the one before it is whole.
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=5000, save_last=True,
                    max_keep_ckpts=2),
    export_encoder=dict(type=ExportEncoderHook),
    visualization=dict(type=DrawPredictionsHook))

log_processor = dict(type=TaskLossLogProcessor, window_size=50, by_epoch=False)
visualizer = dict(
    type=Visualizer,
    vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)])

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
randomness = dict(seed=0)

load_from = None
resume = False
log_level = 'INFO'
