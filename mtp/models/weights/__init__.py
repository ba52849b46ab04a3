"""Checkpoint files: safe reading, loading into models, and released ones by name."""

from mtp.models.weights.catalogue import CATALOGUE, Weights
from mtp.models.weights.loading import (
    LoadReport,
    load_backbone_checkpoint,
    read_state_dict,
)
from mtp.models.weights.official import convert_official
from mtp.models.weights.released import FOLDER, RELEASED, find_released
from mtp.models.weights.safe_loading import load_safely
from mtp.models.weights.sources import resolve

__all__ = [
    'CATALOGUE',
    'FOLDER',
    'RELEASED',
    'LoadReport',
    'Weights',
    'find_released',
    'convert_official',
    'load_backbone_checkpoint',
    'load_safely',
    'read_state_dict',
    'resolve',
]
