"""Prediction with a trained model: on images, and on scenes of any size."""

from mtp.lazy import attribute_getter

_PUBLIC = {
    'mtp.prediction.from_checkpoint': ['load'],
    'mtp.prediction.scene_files': ['Model'],
    'mtp.prediction.results': [
        'Change',
        'Classification',
        'Detections',
        'MultiTask',
        'RotatedDetections',
        'Segmentation',
    ],
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = attribute_getter(__name__, _PUBLIC)
