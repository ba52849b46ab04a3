"""Small copies of each data set, made up, in the true on-disk form that its owner distributes."""
from mtp.data.synthetic.samrs import CLASSES, make_samrs

__all__ = ['CLASSES', 'make_samrs']
