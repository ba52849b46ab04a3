"""Samples and predictions -> numbers, or what a benchmark's server makes numbers of."""
from mtp.evaluation.change import ChangeMetric
from mtp.evaluation.coco import DetectionMetric
from mtp.evaluation.multitask import MultiTaskMetric
from mtp.evaluation.rotated import RotatedMetric
from mtp.evaluation.segmentation import SegmentationMetric
from mtp.evaluation.submission import LoveDASubmission, Submission
from mtp.evaluation.tiles import DOTASubmission, FAIR1MSubmission

__all__ = ['ChangeMetric', 'DOTASubmission', 'DetectionMetric', 'FAIR1MSubmission',
           'LoveDASubmission', 'MultiTaskMetric', 'RotatedMetric', 'SegmentationMetric',
           'Submission']
