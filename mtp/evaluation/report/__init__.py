"""Figures of a report on a test: confusion, curves, calibration, best and worst images."""

from mtp.evaluation.report.extremes import Extremes
from mtp.evaluation.report.kinds import TaskFigures, figures_of
from mtp.evaluation.report.parts import parts_of

__all__ = ['Extremes', 'TaskFigures', 'figures_of', 'parts_of']
