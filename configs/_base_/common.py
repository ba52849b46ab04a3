"""Logging, checkpoints and seeds of every run, whatever it trains."""

from mmengine.hooks import DistSamplerSeedHook, LoggerHook, ParamSchedulerHook
from mmengine.visualization import LocalVisBackend, Visualizer

from mtp.engine import (
    BadUpdatesHook,
    CaptureHook,
    CompileHook,
    DeferredLogHook,
    DrawPredictionsHook,
    PreemptionHook,
    ProgressBarsHook,
    RehearsalHook,
    ReplacedSamplesHook,
    ReplicatedModel,
    SeedIterationHook,
    ThroughputHook,
    TimeLimitHook,
    VerifiedCheckpointHook,
)
from mtp.visualization.backends import TensorBoardBackend

default_hooks = dict(
    runtime_info=dict(type=DeferredLogHook),
    timer=dict(type=ThroughputHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
    seed_iteration=dict(type=SeedIterationHook),
    rehearsal=dict(type=RehearsalHook),
    bad_updates=dict(type=BadUpdatesHook),
    replaced_samples=dict(type=ReplacedSamplesHook),
    logger=dict(type=LoggerHook, interval=50),
    progress=dict(type=ProgressBarsHook),
    param_scheduler=dict(type=ParamSchedulerHook),
    compilation=dict(type=CompileHook),
    capture=dict(type=CaptureHook),
    # Two are kept: one that was damaged after it had been verified has one before it.
    checkpoint=dict(type=VerifiedCheckpointHook, interval=1, save_last=True, max_keep_ckpts=2),
    # a crash costs 15 minutes at most
    preemption=dict(type=PreemptionHook, minutes=15),
    time_limits=dict(type=TimeLimitHook, step=5, long=30),  # minutes
    visualization=dict(type=DrawPredictionsHook),
)

visualizer = dict(
    type=Visualizer, vis_backends=[dict(type=LocalVisBackend), dict(type=TensorBoardBackend)]
)
# 'wandb' or 'mlflow': training goes there too; see docs/reports.md.
tracker = None

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=1800),
)
randomness = dict(seed=0, deterministic=False)
# With several processes: a copy of the model on each, or ShardedModel; see docs/distributed.md.
model_wrapper_cfg = dict(type=ReplicatedModel)

# Maximum number of images at once on a GPU; gradients of a step's further images accumulate.
# None: a process takes its whole share at once.
images_per_gpu = None

load_from = None
resume = False
log_level = 'INFO'
