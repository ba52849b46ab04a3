"""Samples and predictions -> numbers, or what a benchmark's server makes numbers of."""
from mtp.evaluation.change import ChangeMetric
from mtp.evaluation.multitask import MultiTaskMetric
from mtp.evaluation.submission import LoveDASubmission, Submission

__all__ = ['ChangeMetric', 'LoveDASubmission', 'MultiTaskMetric', 'Submission']
