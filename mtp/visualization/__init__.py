"""Pictures of predictions and of training logs."""

from mtp.lazy import attribute_getter

__all__ = ['draw_sample', 'plot_curves']

__getattr__ = attribute_getter(
    __name__,
    {'mtp.visualization.curves': ['plot_curves'], 'mtp.visualization.visualizer': ['draw_sample']},
)
