"""From predictions and logs to pictures."""
from mtp.inference.curves import plot_curves
from mtp.inference.visualizer import draw_sample

__all__ = ['draw_sample', 'plot_curves']
