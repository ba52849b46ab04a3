"""Record the keys and shapes of the released weights in mtp/models/weights/layouts.json.

    python tools/checkpoints/record_layouts.py

They are those of mtp's own models, which have the names of the released ones (a test compares the
two where a list of the latter is at hand), and for MAE those of timm's ViT.
"""

import json
from pathlib import Path

import timm
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mtp.files import write_text
from mtp.models import build_backbone
from mtp.models.weights.catalogue import CATALOGUE, Weights
from mtp.models.weights.layouts import compress, lines_of
from mtp.recipes import table
from mtp.registry import MODELS

FILE = Path(__file__).resolve().parents[2] / 'mtp' / 'models' / 'weights' / 'layouts.json'
TIMM = {'mae_vit_b': 'vit_base_patch16_224', 'mae_vit_l': 'vit_large_patch16_224'}


def build(weights: Weights) -> nn.Module:
    """Return the model of an entry of the catalogue, without memory for its weights."""
    with torch.device('meta'):
        if weights.layout in TIMM:
            return timm.create_model(TIMM[weights.layout], num_classes=0)
        if weights.kind != 'model':
            return build_backbone(weights.backbone, img_size=weights.input_size)
        cfg = Config.fromfile(table.config_of(weights.dataset, weights.backbone))
        init_default_scope(cfg.default_scope)
        return MODELS.build(cfg.model)


def add(parts: dict[str, dict], name: str, lines: list[str]) -> str:
    """Add a part, as its difference from the most similar one, and return its name.

    Args:
        parts: name -> part, as in the file; it is added here.
        name: name of the part, unless an equal one is there.
        lines: its entries.
    """
    wanted, differences = set(lines), {}
    for other in parts:
        known = set(lines_of(other, parts))
        differences[other] = sorted(known - wanted), sorted(wanted - known)
    base = min(differences, key=lambda part: sum(map(len, differences[part])), default=None)
    if base is not None and differences[base] == ([], []):
        return base
    if base is not None and sum(map(len, differences[base])) < len(lines) / 2:
        without, lines = differences[base]
        parts[name] = {'like': base, 'without': without, 'lines': lines}
    else:
        parts[name] = {'lines': lines}
    return name


def main() -> None:
    parts: dict[str, dict] = {}
    layouts: dict[str, dict[str, str]] = {}
    for weights in CATALOGUE.values():
        name = weights.layout
        if name in layouts or name != weights.name:
            continue
        of_part: dict[str, dict[str, tuple[int, ...]]] = {}
        for key, value in build(weights).state_dict().items():
            prefix = 'backbone.' if key.startswith('backbone.') else ''
            of_part.setdefault(prefix, {})[key.removeprefix(prefix)] = tuple(value.shape)
        layouts[name] = {}
        for prefix, shapes in of_part.items():
            lines = compress(shapes)
            layouts[name][prefix] = add(parts, name + ('.backbone' if prefix else ''), lines)
    write_text(FILE, json.dumps({'layouts': layouts, 'parts': parts}, indent=0) + '\n')
    print(f'{FILE}: {len(layouts)} layouts, {FILE.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()
