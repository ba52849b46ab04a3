"""Time of an operator in each implementation; peak rates of copies and matrix products."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtp.fallback import reason_in_a_line
from mtp.ops.dispatch import use_triton
from operators.cases import Case
from operators.goals import judge

LONGEST = 10.0  # seconds after which a measurement ends before it has all its repeats


def measure(
    case: Case, device: torch.device, repeats: int, limits: dict[str, float]
) -> list[dict[str, Any]]:
    """Return a row for each dtype, mode and form of a case."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16)[: 1 + case.low_precision]:
        name = str(dtype).removeprefix('torch.')
        for backward in (False, True)[: 1 + bool(case.learned)]:
            for form, function in case.forms.items():
                torch.manual_seed(0)  # the same operands for all forms
                operands = learn(case, case.make(case.images, dtype, device))
                if form == 'kernel' and not use_triton(operands[0]):
                    continue
                row = {
                    'operator': case.operator,
                    'size': case.size,
                    'images': case.images,
                    'form': form,
                    'dtype': name,
                    'mode': 'fwd+bwd' if backward else 'fwd',
                }
                rows.append(row)
                try:
                    call = caller(function, operands, case.learned, dtype, backward)
                    row |= timed(call, device, repeats)
                    row |= replayed(call, device, repeats)
                    row['moved_bytes'], row['flops'] = work(case, operands, call(), backward)
                    del operands, call
                    if form not in case.other_results:
                        row['error'] = error(case, function, dtype, device, backward)
                except (RuntimeError, NotImplementedError) as reason:  # out of memory is one
                    row['failed'] = f'{type(reason).__name__}: {str(reason).splitlines()[0]}'
                    continue
                row['floor_ms'] = row['moved_bytes'] / limits['copy_gb_s'] / 1e6
                ms = row['device_ms'] or row['ms']
                row['gb_s'] = row['moved_bytes'] / ms / 1e6
                row['tflop_s'] = row['flops'] / ms / 1e9
                row['of_copy'] = row['gb_s'] / limits['copy_gb_s']
                row['of_matmul'] = row['tflop_s'] / limits[f'{name}_tflop_s']
    for row in rows:
        for column, dtype in (('times_plain', row['dtype']), ('times_plain_float32', 'float32')):
            row[column] = times_plain(row, rows, dtype)
    judge(rows)
    return rows


def times_plain(row: dict[str, Any], rows: list[dict[str, Any]], dtype: str) -> float | None:
    """Return how many times as long the plain form takes in ``dtype``, None if one has no time.

    Both times are of replays, or neither is.
    """
    wanted = 'plain', dtype, row['mode']
    for other in rows:
        if (other['form'], other['dtype'], other['mode']) == wanted:
            for key in ('device_ms', 'ms'):
                if row.get(key) is not None and other.get(key) is not None:
                    return other[key] / row[key]
    return None


def learn(case: Case, operands: list[Tensor]) -> list[Tensor]:
    """Return the operands, the first of them requiring gradients."""
    return [
        operand.detach().requires_grad_() if number < case.learned else operand
        for number, operand in enumerate(operands)
    ]


def caller(
    function: Callable[..., Tensor],
    operands: list[Tensor],
    learned: int,
    dtype: torch.dtype,
    backward: bool,
) -> Callable[[], list[Tensor]]:
    """Return a function that computes the result, and with ``backward`` the gradients."""
    device = operands[0].device.type
    cotangent = None

    def call() -> list[Tensor]:
        nonlocal cotangent
        with (
            torch.set_grad_enabled(backward),
            torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16),
        ):
            result = function(*operands)
        if not backward:
            return [result]
        if cotangent is None:
            torch.manual_seed(1)
            cotangent = torch.randn(result.shape, device=device).to(result.dtype)
        return [result, *torch.autograd.grad(result, operands[:learned], cotangent)]

    return call


def timed(call: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, Any]:
    """Measure a call: median milliseconds by clock and host processor, runs, peak megabytes."""
    on_gpu = device.type == 'cuda'
    call()  # compiles
    peak = None
    if on_gpu:
        flush = torch.empty(1 << 28, dtype=torch.uint8, device=device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        peak = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    times, host, begun = [], [], time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begun < LONGEST):
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
        first, busy = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - first) * 1e3)
        host.append((time.process_time() - busy) * 1e3)
        if on_gpu:
            end.record()
            end.synchronize()
            times[-1] = start.elapsed_time(end)
    return {
        'ms': statistics.median(times),
        'host_ms': statistics.median(host),
        'runs': len(times),
        'peak_mb': peak,
    }


def replayed(call: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, Any]:
    """Measure the median milliseconds of a call replayed as a CUDA graph, with a cold cache.

    Returns:
        dict: ``device_ms``, None without a GPU and where the call cannot be captured; then
        ``not_captured`` has the reason.
    """
    if device.type != 'cuda':
        return {'device_ms': None}
    graph = torch.cuda.CUDAGraph()
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is chosen or allocated once is not captured
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            kept = call()
    except RuntimeError as reason:  # a wait for the device, or a copy from the host
        torch.cuda.synchronize()
        return {
            'device_ms': None,
            'not_captured': [f'not captured: {reason_in_a_line(reason)}'],
        }
    flush = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()  # takes longer than the host needs to launch the graph
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    del kept
    return {'device_ms': statistics.median(times)}


def work(
    case: Case, operands: list[Tensor], results: list[Tensor], backward: bool
) -> tuple[int, float]:
    """Return the fewest bytes that a call moves, and its floating-point operations."""
    moved = sum(tensor.nbytes for tensor in [*operands, results[0]])
    if not backward:
        return moved, case.flops[0]
    return 2 * moved + sum(tensor.nbytes for tensor in results[1:]), sum(case.flops)


def error(
    case: Case,
    function: Callable[..., Tensor],
    dtype: torch.dtype,
    device: torch.device,
    backward: bool,
) -> float | None:
    """Return the largest difference to the twin in float64, on one image.

    None where the twin is left out.
    """
    if 'torch' not in case.forms:
        return None
    torch.manual_seed(0)
    operands = case.make(1, dtype, device)
    wide = [operand.double() if operand.is_floating_point() else operand for operand in operands]
    expected, actual = (
        caller(form, learn(case, tensors), case.learned, kind, backward)()
        for form, tensors, kind in (
            (case.forms['torch'], wide, torch.float64),
            (function, operands, dtype),
        )
    )
    if not expected[0].is_floating_point():  # indices of kept boxes
        kept = torch.zeros(2, len(operands[0]), dtype=torch.bool, device=device)
        kept[0, expected[0]] = kept[1, actual[0]] = True
        return (kept[0] != kept[1]).float().mean().item()
    return max(((a - e).abs().max() / e.abs().max()).item() for a, e in zip(actual, expected))


def ceilings(device: torch.device, tiny: bool) -> dict[str, float]:
    """Measure the rates that the device reaches in a large copy and in large matrix products."""
    source = torch.empty(1 << (16 if tiny else 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = timed(lambda: target.copy_(source), device, 10)['ms']
    found = {'copy_gb_s': 2 * source.nbytes / ms / 1e6}
    side = 64 if tiny else 8192 if device.type == 'cuda' else 1024
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, side, side, dtype=dtype, device=device)
        ms = timed(lambda a=a, b=b: a @ b, device, 10)['ms']
        found[f'{str(dtype).removeprefix("torch.")}_tflop_s'] = 2 * side**3 / ms / 1e9
    return found


def describe(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    info = Path('/proc/cpuinfo')
    models = [
        line.split(':', 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith('model name')
    ]
    return f'{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads'
