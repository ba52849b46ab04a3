"""Metrics of predictions, and submissions for the servers of benchmarks."""

from mtp.evaluation.change_metric import ChangeMetric
from mtp.evaluation.classification_metric import ClassificationMetric
from mtp.evaluation.coco_metric import DetectionMetric
from mtp.evaluation.multitask_metric import MultiTaskMetric
from mtp.evaluation.rotated_metric import RotatedMetric
from mtp.evaluation.scene_metric import SceneDetections, SceneMaps
from mtp.evaluation.segmentation_metric import SegmentationMetric
from mtp.evaluation.submission import LoveDASubmission, Submission
from mtp.evaluation.tiles import DOTASubmission, FAIR1MSubmission

__all__ = [
    'ChangeMetric',
    'ClassificationMetric',
    'DOTASubmission',
    'DetectionMetric',
    'FAIR1MSubmission',
    'LoveDASubmission',
    'MultiTaskMetric',
    'RotatedMetric',
    'SceneDetections',
    'SceneMaps',
    'SegmentationMetric',
    'Submission',
]
