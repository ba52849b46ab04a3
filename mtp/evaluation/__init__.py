"""Samples and predictions -> numbers."""
from mtp.evaluation.multitask import MultiTaskMetric

__all__ = ['MultiTaskMetric']
