"""AdamW with layer decay, for all finetuning; the file of a backbone sets lr and decay."""

from mtp.engine import (
    FusedAdamW,
    LayerDecayOptimWrapperConstructor,
    MixedPrecisionOptimWrapper,
)

optim_wrapper = dict(
    type=MixedPrecisionOptimWrapper,
    optimizer=dict(type=FusedAdamW, lr=6e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
