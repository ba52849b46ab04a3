"""Facts of the downstream data sets, one entry each, in one table."""
from mtp.data.facts.base import Facts
from mtp.data.facts.detection import DETECTION
from mtp.data.facts.scenes import SCENES

__all__ = ['DATASETS', 'Facts']

DATASETS: dict[str, Facts] = {**SCENES, **DETECTION}
