"""Recorded parameters, and comparison with recorded tensors."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def load_params(model: nn.Module, data: np.lib.npyio.NpzFile) -> None:
    """Load ``param/*`` of a recording, which may hold more than the model."""
    params = {
        key.removeprefix('param/'): torch.from_numpy(data[key])
        for key in data
        if key.startswith('param/')
    }
    keys = model.state_dict().keys()
    model.load_state_dict({key: params[key] for key in keys})


def assert_close(actual: Tensor, expected: np.ndarray, tolerance: float, name: str) -> None:
    """Compare by the largest difference over the largest expected value."""
    error = np.abs(actual.detach().numpy() - expected).max() / np.abs(expected).max()
    assert error < tolerance, f'{name}: {error:.1e} of the largest value'


def assert_gradients_close(model: nn.Module, data: np.lib.npyio.NpzFile, tolerance: float) -> None:
    """Compare the parameters' gradients with ``grad/*``."""
    grads = [key for key in data if key.startswith('grad/')]
    assert grads
    for key in grads:
        name = key.removeprefix('grad/')
        assert_close(model.get_parameter(name).grad, data[key], tolerance, name)


def backbone_entries(shared: Path) -> dict[str, dict]:
    """The released backbones: name -> ``num_parameters`` and ``keys`` (name -> dtype[shape])."""
    return json.loads((shared / 'golden' / 'keys' / 'backbones.json').read_text())


def assert_official_state_dict_loads(model: nn.Module, entry: dict) -> None:
    """Names, shapes and types of a released backbone, for a model on the meta device."""
    state = {}
    for key, text in entry['keys'].items():
        dtype, shape = text.rstrip(']').split('[')
        state[key] = torch.empty(
            [int(n) for n in shape.split(',') if n], dtype=getattr(torch, dtype), device='meta'
        )
    own = {key: (value.dtype, value.shape) for key, value in model.state_dict().items()}
    assert own == {key: (value.dtype, value.shape) for key, value in state.items()}
    model.load_state_dict(state, strict=True)
    assert sum(p.numel() for p in model.parameters()) == entry['num_parameters']
