"""Finetune on small batches of real values: shapes in the libraries' heads depend on them."""

from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmrotate.structures.bbox import RotatedBoxes
from mmseg.structures import SegDataSample

from mtp import resources
from mtp.engine.weight_copies import WeightCopies
from mtp.registry import MODELS
from tools.benchmark.counting.gpu_forms import forms_of_a_gpu
from tools.gate import autocast
from tools.gate.trace import Tracer
from tools.gate.uncompiled import Uncompiled
from tools.gate.workloads import Finetuning

IMAGES, SIDE = 2, 256  # images per batch, their side in pixels
OBJECTS = (5, 9)  # objects per image in the first and in the second batch


def finetune(workload: Finetuning, tracer: Tracer) -> tuple[dict[str, int], None]:
    """Run two steps on the CPU, with a GPU's precision and full width, and trace their parts.

    Returns:
        tuple: place in the step -> launches of what runs uncompiled; None, as the memory is not
        that of a GPU.
    """
    cfg = Config.fromfile(resources.configs() / 'finetune' / f'{workload.config}.py')
    cfg.model.backbone.update(img_size=SIDE, init_cfg=None)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    with forms_of_a_gpu():
        model = MODELS.build(cfg.model).train()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        tracer.install(model)
        for objects in OBJECTS:
            tracer.begin_step()
            # the lists in the backward pass too, where checkpoints compute again
            with Uncompiled(tracer) as counter, autocast.lists_of_cuda():
                data = model.data_preprocessor(_batch(cfg, objects), training=True)
                counter.take('data preprocessor')
                copies = WeightCopies(model, torch.bfloat16)
                copies.make()
                with autocast.on_the_cpu(), copies.in_place():
                    loss, _ = model.parse_losses(model(**data, mode='loss'))
                counter.take('forward')
                with copies.in_place():
                    loss.backward()
                counter.take('backward')
                optimizer.step()
                optimizer.zero_grad()
                counter.take('optimiser')
    return counter.taken, None


def _batch(cfg: Config, objects: int) -> dict[str, Any]:
    channels = 6 if 'change_detection' in cfg.filename else 3
    images = [
        torch.randint(0, 256, (channels, SIDE, SIDE), dtype=torch.uint8) for _ in range(IMAGES)
    ]
    return dict(inputs=images, data_samples=[_sample(cfg, objects) for _ in images])


def _sample(cfg: Config, objects: int) -> Any:
    meta = dict(
        img_path='synthetic.png',
        img_id=0,
        ori_shape=(SIDE, SIDE),
        img_shape=(SIDE, SIDE),
        scale_factor=(1.0, 1.0),
    )
    model = cfg.model
    if 'head' in model:
        label = torch.randint(model.head.num_classes, (1,))
        return DataSample(metainfo=meta).set_gt_label(label)
    if 'decode_head' in model:
        sample = SegDataSample(metainfo=meta)
        label = torch.randint(model.decode_head.num_classes, (1, SIDE, SIDE))
        sample.gt_sem_seg = PixelData(data=label)
        return sample
    head = model.roi_head.bbox_head if 'roi_head' in model else model.bbox_head
    boxes = _boxes(objects, 'rotated_detection' in cfg.filename)
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.randint(head.num_classes, (objects,))
    )
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0).long())
    return sample


def _boxes(number: int, rotated: bool) -> RotatedBoxes | HorizontalBoxes:
    centres, sides = SIDE * (0.2 + 0.6 * torch.rand(number, 2)), 16 + 48 * torch.rand(number, 2)
    if rotated:
        return RotatedBoxes(torch.cat([centres, sides, torch.rand(number, 1) - 0.5], 1))
    return HorizontalBoxes(torch.cat([centres - sides / 2, centres + sides / 2], 1))
