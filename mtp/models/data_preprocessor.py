"""From a list of images to one normalised, padded batch."""
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import SampleList

from mtp.registry import MODELS


@MODELS.register_module()
class MultiTaskDataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for batches whose samples carry different labels.

    Images become RGB float32, normalised, then padded with 0 at the right and bottom to the
    largest of the batch, rounded up to a multiple of ``pad_size_divisor`` (the crop size makes
    every batch of the same shape). In training, instance masks are padded with 0 and semantic
    maps with 255 to the same shape: targets stay aligned with the images, which they do not in
    the official code when an image is smaller than the crop.

    Args:
        pad_size_divisor: pixels.
        mean: per RGB channel, in 0..255.
        std: per RGB channel, in 0..255.
    """

    def __init__(self, pad_size_divisor: int,
                 mean: tuple[float, ...] = (123.675, 116.28, 103.53),
                 std: tuple[float, ...] = (58.395, 57.12, 57.375)) -> None:
        super().__init__(mean=mean, std=std, bgr_to_rgb=True, pad_mask=True, pad_seg=True,
                         pad_size_divisor=pad_size_divisor, boxtype2tensor=False)

    def _get_pad_shape(self, data: dict) -> list[tuple[int, int]]:
        # Where anchors may lie: on the image rounded up to stride 32, not on all of the padding.
        return [tuple(-(-side // 32) * 32 for side in image.shape[1:]) for image in data['inputs']]

    def pad_gt_masks(self, batch_data_samples: SampleList) -> None:
        """Pad the masks of the samples that have some."""
        super().pad_gt_masks([s for s in batch_data_samples if 'gt_instances' in s])

    def pad_gt_sem_seg(self, batch_data_samples: SampleList) -> None:
        """Pad the semantic maps of the samples that have one."""
        super().pad_gt_sem_seg([s for s in batch_data_samples if 'gt_sem_seg' in s])
