"""Count a training step at the models' real sizes as a GPU would run it, without a GPU.

    python tools/benchmark/counted.py [--images N] [--objects N] [--size PIXELS] [--json FILE]

The step runs on fake tensors, which have shapes and no numbers, with the kernels that a GPU would
take and without ``torch.compile``. ``ours`` runs under bfloat16 autocast, ``A`` is the paper's
plain operators in float32, ``C`` is A under autocast. Of A and C only the backbone is counted: the
shapes in the libraries' heads depend on numbers.

``saved`` is what the forward pass keeps for the backward pass without recomputation; it includes
casts of parameters to bfloat16, but not the parameters. Launches are those of forward and backward.
A wait of the host for the device would be an error, since fake tensors have no numbers to wait for;
the exception are copies of whole tensors to the host.
"""

import argparse
from pathlib import Path

from training.recipes import RECIPES

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)
from mtp.files import json_text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--models',
        nargs='+',
        choices=RECIPES,
        default=['vit_b_rvsa', 'vit_l_rvsa', 'internimage_xl'],
    )
    parser.add_argument('--images', type=int, default=2, help='images per data set')
    parser.add_argument('--objects', type=int, default=23, help='objects per image')
    parser.add_argument('--size', type=int, default=448, help='side of an image, pixels')
    parser.add_argument('--json', type=Path, help='file to write the rows to')
    return parser.parse_args()


def main() -> None:
    options = parse()
    from counting import counted_step
    from training import jobs

    rows = []
    print(
        f'{"per image":<22}{"GFLOP":>9}{"backbone":>10}{"saved, MB":>11}{"backbone":>10}'
        f'{"launches":>10}{"2 x images":>12}{"2 x objects":>13}'
    )
    for model in options.models:
        cfg = jobs.load_recipe(model, options.size, {})
        images = options.images * len(jobs.num_classes(cfg))
        for job, plain, amp in (('ours', False, True), ('A', True, False), ('C', True, True)):
            row = {'model': model, 'job': job, 'images': images}
            row |= counted_step.of_backbone(cfg, images, options.size, plain, amp)
            if job == 'ours':
                row |= counted_step.of_step(cfg, options.images, options.objects, options.size)
            rows.append(row)
            print(
                f'{model:<16}{job:<6}'
                + ''.join(
                    format(row[key], f'{width}.0f') if key in row else '-'.rjust(width)
                    for key, width in (
                        ('gflop', 9),
                        ('backbone_gflop', 10),
                        ('saved_mb', 11),
                        ('backbone_saved_mb', 10),
                        ('launches', 10),
                        ('launches_twice_images', 12),
                        ('launches_twice_objects', 13),
                    )
                ),
                flush=True,
            )
    if options.json:
        options.json.write_text(json_text(rows, indent=1))


if __name__ == '__main__':
    main()
