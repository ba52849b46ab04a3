"""Layer-wise learning rate decay: smaller rates for earlier layers of the backbone."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mtp.models.backbones import Backbone
from mtp.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimiser wrapper constructor that groups parameters by learning rate and weight decay.

    With ``n = num_layers + 2`` of the backbone, layer ``i`` (from 0) gets the learning rate times
    ``layer_decay_rate ** (n - i - 1)``; parameters outside the backbone get the full rate. The
    backbone decides for the whole model which parameters have no weight decay. The backbone is the
    submodule that implements :class:`mtp.models.backbones.Backbone`, whatever its name. Frozen
    parameters are left out, as in mmengine.

    A layer makes at most two groups; if the rate is 1, so do all layers together. Groups are sorted
    by learning rate, and at equal rates the one with weight decay is first. They keep the model's
    parameter order, so that a resumed run finds the groups it saved.

    Source: ELECTRA's layer-wise decay (arXiv:2003.10555) as BEiT and MTP use it.

    Args:
        optim_wrapper_cfg: config of the wrapper; its ``optimizer`` has ``lr`` and
            ``weight_decay``.
        paramwise_cfg: ``dict(layer_decay_rate=...)``, above 0 and at most 1.

    Raises:
        ValueError: these values are missing or out of range; on the call: the model has no
            backbone or several.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if set(self.paramwise_cfg) != {'layer_decay_rate'} or not 0 < rate <= 1:
            raise ValueError(
                f'paramwise_cfg={self.paramwise_cfg}: {type(self).__name__} takes '
                'dict(layer_decay_rate=x) with 0 < x <= 1 and nothing else'
            )
        if self.base_lr is None or self.base_wd is None:
            raise ValueError(f'optimizer={self.optimizer_cfg}: give its lr and weight_decay')

    def add_params(self, params: list[dict], module: nn.Module) -> None:
        """Append the parameter groups of ``module``, the complete model, to ``params``."""
        prefix, backbone = _find_backbone(module)
        last = backbone.num_layers + 1
        rate = self.paramwise_cfg['layer_decay_rate']
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer = backbone.layer_id(name[len(prefix) :]) if name.startswith(prefix) else last
            weight_decay = 0.0 if backbone.no_weight_decay(name, param) else self.base_wd
            key = self.base_lr * rate ** (last - layer), weight_decay
            groups.setdefault(key, []).append(param)

        for lr, weight_decay in sorted(groups, key=lambda key: (key[0], -key[1])):
            params.append(
                {'params': groups[lr, weight_decay], 'lr': lr, 'weight_decay': weight_decay}
            )
        print_log(
            f'Layer-wise decay {rate} on {prefix}* ({backbone.num_layers} layers): '
            f'{len(params)} groups, lr {params[0]["lr"]:.3e} to {self.base_lr:.3e}, weight decay '
            f'{self.base_wd} on {_count(params, self.base_wd)} parameters, none on '
            f'{_count(params, 0.0)}',
            logger='current',
        )


def _count(groups: list[dict], weight_decay: float) -> str:
    total = sum(
        param.numel()
        for group in groups
        if group['weight_decay'] == weight_decay
        for param in group['params']
    )
    return f'{total / 1e6:.1f} M'


def _find_backbone(model: nn.Module) -> tuple[str, Backbone]:
    found = [
        (f'{name}.' if name else '', module)
        for name, module in model.named_modules()
        if isinstance(module, Backbone)
    ]
    if len(found) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(found)} submodules with num_layers, layer_id and '
            'no_weight_decay; layer-wise decay needs exactly one: a backbone of mtp'
        )
    return found[0]
