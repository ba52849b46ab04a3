"""Time the pretraining step of a model against the paper's structure, in one run.

    python tools/benchmark/train.py --model vit_l_rvsa [--device cuda|cpu] [--json FILE]
        [--images N] [--objects N] [--size PIXELS] [--repeats N] [--amp auto|on|off]
        [--compile auto|on|off] [--graphs] [--cfg-options KEY=VALUE ...] [--only-ours]
        [--loader DIR] [--memory GB] [--profile FILE]

``ours`` is the recipe of ``configs/pretrain``. ``A`` is the paper's structure in float32 (see
``paper/model.py``), ``C`` is A under bfloat16 autocast. They take turns on the same batches in
memory.

- Utilisation: the counted operations of a step (those that torch and ``mtp.engine.flops`` have
  formulas for), over the matrix products that the device reaches in the job's precision.
- ``saved``: what the forward pass keeps for the backward pass.
- Launches and waits of the host: counted on three batches, as asked for, with twice the images and
  with twice the objects.
- ``--repeats 0`` only counts; a CPU can do that for the large models too.
- ``--loader`` also trains from files: ours by the runner with the recipe's workers, A with its
  transforms in the main process.
"""

import argparse
from pathlib import Path

from training.recipes import RECIPES, image_size

from mtp.cli.arguments import add_config_options, add_device
from mtp.cli.errors import users_errors
from mtp.cli.own_gpu import choose_device


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', choices=RECIPES, required=True)
    add_device(parser)
    parser.add_argument('--json', type=Path, help='file to write all figures to')
    parser.add_argument('--images', type=int, default=2, help='images per data set; at least 2')
    parser.add_argument('--objects', type=int, default=23, help='objects per image')
    parser.add_argument(
        '--size', type=int, help='side of an image, pixels; default: 448, for tiny models 128'
    )
    parser.add_argument('--repeats', type=int, help='timed steps; default: 20, on a CPU 5')
    parser.add_argument('--amp', choices=('auto', 'on', 'off'), help='as in tools/train.py')
    parser.add_argument('--compile', choices=('auto', 'on', 'off'), help='as in tools/train.py')
    parser.add_argument(
        '--graphs', action='store_true', help='also time captured steps; fail if none is replayed'
    )
    add_config_options(parser)
    parser.add_argument('--only-ours', action='store_true', help='leave out A and C')
    parser.add_argument(
        '--loader',
        type=Path,
        metavar='DIR',
        help='also train from files: a folder with SAMRS, or made by tools/data/make_synthetic.py',
    )
    parser.add_argument(
        '--memory',
        type=float,
        metavar='GB',
        help='also find the largest batch that fits this much GPU memory',
    )
    parser.add_argument(
        '--profile',
        type=Path,
        metavar='FILE',
        help='also write the trace of a step to this file, and print its summary',
    )
    options = parser.parse_args()
    if options.images < 2:
        parser.error("--images: the paper's batch norm needs 2 images of each data set")
    if options.loader and options.repeats == 0:
        parser.error('--loader measures times: leave out --repeats 0')
    with users_errors():
        choose_device(options.device)  # before torch starts
        from mtp.engine.devices import require_usable_gpu

        require_usable_gpu(options.device)
    import torch

    options.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    options.size = options.size or image_size(options.model)
    if options.repeats is None:
        options.repeats = 5 if options.device == 'cpu' else 20
    if options.device == 'cpu' and (options.memory or options.graphs):
        parser.error('--memory and --graphs are of a GPU')
    if options.graphs and not options.repeats:
        parser.error('--graphs measures times: leave out --repeats 0')
    return options


def main() -> None:
    options = parse()
    from training import comparison

    comparison.run(options)


if __name__ == '__main__':
    main()
