"""Write a checkpoint in a form that other projects read.

    mtp export work_dirs/levir/epoch_150.pth --to safetensors
    mtp export encoder.pth --to onnx --encoder vit_b_rvsa --size 512 512
    mtp export epoch_12.pth --to torch_export --config configs/finetune/.../vit_b_rvsa.py

safetensors: model.safetensors and a model card, README.md. onnx: model.onnx, compared with PyTorch.
torch_export: model.pt2, for torch.export.load. Which models, and with which free axes:
docs/export.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtp.cli.arguments import count
from mtp.cli.errors import add_debug, users_errors

if TYPE_CHECKING:
    from torch import nn

FILES = {'onnx': 'model.onnx', 'torch_export': 'model.pt2'}
FORMS = ('safetensors', *FILES)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint', help='file, folder, hf://owner/name, or a name of `mtp weights list`'
    )
    parser.add_argument('--to', choices=FORMS, required=True, help='form of the files')
    parser.add_argument(
        '--out', type=Path, help='folder to write to (<checkpoint without suffix>_<form>)'
    )
    graph = parser.add_argument_group('options of onnx and torch_export')
    model = graph.add_mutually_exclusive_group()
    model.add_argument('--config', help='config that a finetuned model was trained with')
    model.add_argument('--encoder', help='name of an encoder, whose weights the file holds')
    graph.add_argument(
        '--size',
        nargs=2,
        type=count,
        metavar=('H', 'W'),
        help="height and width of the images, pixels (the model's own)",
    )
    graph.add_argument('--nms', action='store_true', help='with NMS, where the model has it')
    graph.add_argument(
        '--int8', action='store_true', help='store weights of linear layers in 8 bits'
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    if args.to == 'safetensors' and args.int8:
        parser.error('--int8 is for onnx and torch_export')
    from mtp.models.weights.sources import resolve

    with users_errors(args.debug):
        path = resolve(args.checkpoint)
        out = args.out or path.with_name(f'{path.stem}_{args.to}')
        written = _weights(path, out) if args.to == 'safetensors' else [_graph(args, path, out)]
        for file in written:
            print(f'{file}: {file.stat().st_size:,} bytes')


def _weights(path: Path, out: Path) -> list[Path]:
    from mtp.export.safetensors_file import export_safetensors

    return export_safetensors(path, out)


def _graph(args: argparse.Namespace, path: Path, out: Path) -> Path:
    from mtp.export.graphs import portable, trace, write_onnx, write_program
    from mtp.files import UnusableFileError

    file = out / FILES[args.to]
    if file.exists():
        raise UnusableFileError(f'{file} exists: remove it, or choose another folder by --out')
    model, side = _model(args, path)
    form = portable(model, args.nms)
    size = (args.size[0], args.size[1]) if args.size else (side, side)
    program = trace(form, size, args.int8)
    if args.to == 'onnx':
        print(write_onnx(program, form, file))
    else:
        write_program(program, file)
    axes = [*(['batch'] if form.free_batch else []), *(['H', 'W'] if form.free_size else [])]
    print(
        f'images (B, {form.bands}, H, W), normalised'
        + ('' if form.free_size else f', of {size[0]} x {size[1]} pixels')
        + f'; outputs {", ".join(form.outputs)}; free axes: {", ".join(axes) or "none"}'
    )
    return file


def _model(args: argparse.Namespace, path: Path) -> 'tuple[nn.Module, int]':
    """Return the model with its weights, and the side of the images that it was made for."""
    from mmengine.registry import init_default_scope
    from torch import nn

    from mtp.cli.config import read_config
    from mtp.export.safetensors_file import read_checkpoint
    from mtp.files import UnusableFileError
    from mtp.models.backbones import build_backbone
    from mtp.models.weights.catalogue import CATALOGUE
    from mtp.models.weights.finetuned import convert
    from mtp.recipes import table
    from mtp.registry import MODELS

    weights = CATALOGUE.get(args.checkpoint)
    encoder, config = args.encoder, args.config
    if weights and weights.dataset:
        config = config or table.config_of(weights.dataset, weights.backbone)
    elif weights:
        encoder = encoder or weights.backbone
    if encoder:
        side = (weights and weights.input_size) or 224
        side = max(args.size) if args.size else side
        backbone = build_backbone(encoder, img_size=side, pretrained=path)
        assert isinstance(backbone, nn.Module)
        return backbone, side
    if not config:
        from mtp.prediction.from_checkpoint import load

        try:
            model = load(path, device='cpu')
        except UnusableFileError as error:
            raise UnusableFileError(f'{error}; an encoder alone needs --encoder NAME') from error
        return model.module, model.side or 224
    cfg = read_config(config)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    state, _ = convert(read_checkpoint(path)[0], model, path)
    model.load_state_dict(state)
    return model, cfg.model.backbone.img_size
