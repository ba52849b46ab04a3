"""Predict how a training step scales: ``python tools/benchmark/scaling.py --model vit_l_rvsa``.

Nothing is measured here. The bytes that processes exchange are counted on the models of the
configs; their time follows from the speeds of the links, which are arguments. A collective of ``S``
bytes among ``n`` GPUs takes ``(n - 1) / n * S / bandwidth`` (all-gather, reduce-scatter;
all-reduce: twice that) and a latency. Among several machines every GPU sends through its own
network card. The bandwidth is then that of NVLink or of all cards of a machine together, whichever
is less.
"""

import argparse
import math
from dataclasses import dataclass

from mtp import resources

# Model -> ms per image at the full matrix rate of one H200, from counted work; see
# docs/benchmarks/scaling_predicted.md
FLOOR_MS = {'vit_b_rvsa': 1.49, 'vit_l_rvsa': 2.90, 'internimage_xl': 2.48}
GPUS = (8, 64, 512)
BUCKET = 25 * 2**20  # bytes of gradients that DDP sends together
# Small all-reduces that the losses wait for: sampled anchors and RoIs of two detectors, positive
# RoIs of the masks, and logged values.
NORMALISERS = 6


@dataclass(frozen=True)
class Model:
    """Sizes that decide what is exchanged: numbers of parameters, parts and batch norms."""

    blocks: int
    decoders: int
    rest: int
    parts: int
    batch_norms: int

    @property
    def parameters(self) -> int:
        return self.blocks + self.decoders + self.rest


@dataclass(frozen=True)
class Links:
    """Bytes per second and direction of a GPU, within a machine and between machines.

    Latencies are those of NCCL's own cost model (``src/graph/tuning.cc``), in seconds: a start, and
    a hop within and between machines.
    """

    nvlink: float
    network: float
    gpus_per_machine: int = 8

    def gather(self, size: float, gpus: int, number: int) -> float:
        """Seconds of ``number`` all-gathers or reduce-scatters, ``size`` bytes in all (ring)."""
        between = math.ceil(gpus / self.gpus_per_machine) - 1
        latency = 14e-6 + (gpus - 1 - between) * 1.9e-6 + between * 4e-6
        return (gpus - 1) / gpus * size / self._bandwidth(gpus) + number * latency

    def reduce(self, size: float, gpus: int, number: int) -> float:
        """Seconds of ``number`` all-reduces, ``size`` bytes in all (tree)."""
        within = min(gpus, self.gpus_per_machine)
        latency = 14e-6 + 2 * ((within - 1) * 1.25e-6 + math.log2(gpus / within) * 8.5e-6)
        return 2 * (gpus - 1) / gpus * size / self._bandwidth(gpus) + number * latency

    def reduce_between(self, size: float, machines: int, number: int) -> float:
        """Seconds of ``number`` all-reduces among GPUs, one of each machine (tree)."""
        latency = 14e-6 + 2 * math.log2(machines) * 8.5e-6
        return 2 * (machines - 1) / machines * size / self.network + number * latency

    def wait(self, gpus: int) -> float:
        """Seconds of an all-reduce of a few numbers."""
        within = min(gpus, self.gpus_per_machine)
        return 6.6e-6 + 2 * ((within - 1) * 0.6e-6 + math.log2(gpus / within) * 5e-6)

    def _bandwidth(self, gpus: int) -> float:
        if gpus <= self.gpus_per_machine:
            return self.nvlink
        return min(self.nvlink, self.network * self.gpus_per_machine)


def count(name: str) -> Model:
    """Count a model of ``configs/pretrain``."""
    import torch
    from mmengine.config import Config

    from mtp.engine.parallel import parts
    from mtp.models import PerDatasetBatchNorm
    from mtp.registry import MODELS

    config = Config.fromfile(resources.configs() / 'pretrain' / f'{name}_samrs.py')
    with torch.device('meta'):
        model = MODELS.build(config.model)
    blocks, decoders = parts(model)
    sizes = [
        sum(p.numel() for module in modules for p in module.parameters())
        for modules in (blocks, decoders, [model])
    ]
    return Model(
        blocks=sizes[0],
        decoders=sizes[1],
        rest=sizes[2] - sizes[0] - sizes[1],
        parts=len(blocks) + len(decoders) + 1,
        batch_norms=sum(isinstance(m, PerDatasetBatchNorm) for m in model.modules()),
    )


def exchange(model: Model, way: str, gpus: int, links: Links) -> tuple[float, int, float]:
    """Return seconds, number and bytes (of one GPU) of a step's collectives that can be hidden.

    Args:
        model: sizes of the model.
        way: ``'DDP'``, ``'DDP, bf16'``, ``'FSDP2'`` or ``'FSDP2 per machine'``.
        gpus: number of GPUs in all.
        links: speeds of the links.
    """
    if way.startswith('DDP'):
        size = model.parameters * (2 if 'bf16' in way else 4)
        buckets = math.ceil(size / BUCKET)
        return links.reduce(size, gpus, buckets), buckets, 2 * size
    # Blocks in bfloat16 and decoders in float32, forward and backward; the rest stays gathered.
    gathered = 2 * (2 * model.blocks + 4 * model.decoders) + 4 * model.rest
    size, collectives = gathered + 4 * model.parameters, 3 * model.parts
    together = links.gpus_per_machine if 'machine' in way else gpus
    seconds = links.gather(size, together, collectives)
    if together < gpus:
        shards = 4 * model.parameters / together
        seconds += links.reduce_between(shards, gpus // together, model.parts)
        size += 2 * shards
    return seconds, collectives, size


def efficiency(
    model: Model, way: str, gpus: int, links: Links, step: float, hidden: float
) -> float:
    """Return a step's time on one GPU over its time among ``gpus``, 0 to 1.

    Args:
        step: time of a step on one GPU, seconds.
        hidden: share of the step that can hide collectives, 0 to 1. Waited for are the rest, the
            last collective in any case, those of batch norm (forward and backward), and those of
            the normalisers.
    """
    seconds, number, _ = exchange(model, way, gpus, links)
    waits = 2 * model.batch_norms + NORMALISERS
    exposed = max(seconds - hidden * step, seconds / number) + waits * links.wait(gpus)
    return step / (step + exposed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', choices=FLOOR_MS, action='append', help='default: all')
    parser.add_argument('--images', type=int, default=6, help='images per GPU and step (6)')
    parser.add_argument(
        '--step-ms', type=float, help='time measured on one GPU; default: the counted work at --mfu'
    )
    parser.add_argument(
        '--mfu',
        type=float,
        default=1.0,
        help='reached share of the matrix rate (1.0); only without --step-ms',
    )
    parser.add_argument('--nvlink', type=float, default=360, help='GB/s of each GPU (360)')
    parser.add_argument('--network', type=float, default=45, help='GB/s of each GPU (45)')
    parser.add_argument(
        '--hidden', type=float, default=0.5, help='share of a step that hides collectives (0.5)'
    )
    args = parser.parse_args()
    links = Links(args.nvlink * 1e9, args.network * 1e9)
    print(
        '| model | step on one GPU, ms | way | GB a GPU and step | '
        + ' | '.join(f'{gpus} GPUs' for gpus in GPUS)
        + ' |\n| --- | --: | --- | --: '
        + '| --: ' * len(GPUS)
        + '|'
    )
    for name in args.model or FLOOR_MS:
        model = count(name)
        step_ms = args.step_ms or FLOOR_MS[name] * args.images / args.mfu
        for way in ('DDP', 'DDP, bf16', 'FSDP2', 'FSDP2 per machine'):
            predicted = [
                efficiency(model, way, gpus, links, step_ms / 1e3, args.hidden) for gpus in GPUS
            ]
            size = exchange(model, way, GPUS[-1], links)[2]
            print(
                f'| {name}, {model.parameters / 1e6:.0f} M | {step_ms:.1f} | {way} | '
                f'{size / 1e9:.2f} | ' + ' | '.join(f'{100 * e:.0f} %' for e in predicted) + ' |'
            )


if __name__ == '__main__':
    main()
