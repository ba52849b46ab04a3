"""Operators on plain tensors, independent of registries, configs and OpenMMLab types.

Every operator with a kernel is imported here, so that its twin is registered before the kernel
needs it.
"""

from mtp.ops.adaptive_pools import adaptive_pools
from mtp.ops.bias_relu import bias_relu
from mtp.ops.column_sums import column_sums
from mtp.ops.deform_conv import dcnv3
from mtp.ops.focal_loss import sigmoid_focal_loss
from mtp.ops.grouped_batch_norm import grouped_batch_norm
from mtp.ops.horizontal_nms import kept_horizontal
from mtp.ops.relative_position import relative_position_attention
from mtp.ops.resize_maps import resize_maps
from mtp.ops.roi_align_levels import roi_align_levels
from mtp.ops.roi_align_rotated import roi_align_rotated
from mtp.ops.rotated_boxes import box_iou_rotated, nms_rotated
from mtp.ops.rotated_window import rotated_window_attention
from mtp.ops.share_maps import share_maps
from mtp.ops.sorting import sort_rows
from mtp.ops.weight_layouts import lay_out_weights
from mtp.ops.window_operands import window_operands

__all__ = [
    'adaptive_pools',
    'bias_relu',
    'box_iou_rotated',
    'column_sums',
    'dcnv3',
    'grouped_batch_norm',
    'kept_horizontal',
    'lay_out_weights',
    'nms_rotated',
    'relative_position_attention',
    'resize_maps',
    'roi_align_levels',
    'roi_align_rotated',
    'rotated_window_attention',
    'share_maps',
    'sigmoid_focal_loss',
    'sort_rows',
    'window_operands',
]
