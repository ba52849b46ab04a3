"""The report of ``tools/benchmark/train.py`` as text."""

from typing import Any

from training.jobs import PHASES

ROWS = [  # key of a job's report, title, format
    ('images_s', 'images/s', '.2f'),
    ('step', 'step, ms', '.1f'),
    *((phase, f'  {phase}', '.1f') for phase in PHASES),
    ('fastest', 'fastest step, ms', '.1f'),
    ('first_step_s', 'to the first step, s', '.1f'),
    ('gflop_per_image', 'GFLOP per image', '.2f'),
    ('backbone_gflop_per_image', '  of the backbone', '.2f'),
    ('tflop_s', 'TFLOP/s', '.4f'),
    ('utilisation', 'of the matrix rate', '.1%'),
    ('peak_mb', 'peak memory, MB', '.0f'),
    ('saved_mb_per_image', 'saved per image, MB', '.1f'),
]
BATCHES = {
    'as_asked': '',
    'twice_images': ', twice the images',
    'twice_objects': ', twice the objects',
}


def text(report: dict[str, Any]) -> str:
    """Return the report as text, without the profile."""
    jobs = report['jobs']
    lines = [
        f'{report["device"]}, torch {report["torch"]}, {report["date"]}',
        f'{report["model"]}, {report["images"]} images of {report["size"]} px with '
        f'{report["objects"]} objects each, {report["repeats"]} repeats; matrix product '
        + ', '.join(
            f'{report["ceilings"][f"{name}_tflop_s"]:.3g} TFLOP/s in {name}'
            for name in ('float32', 'bfloat16')
        ),
        '',
    ]
    lines.append(_line('', [f'{name} ({job["dtype"]})' for name, job in jobs.items()]))
    for key, title, form in ROWS:
        if any(job.get(key) is not None for job in jobs.values()):
            lines.append(
                _line(
                    title,
                    [
                        '-' if job.get(key) is None else format(job[key], form)
                        for job in jobs.values()
                    ],
                )
            )
    if captured := report.get('captured'):
        lines += [
            f'captured step: {captured["step"]:.1f} ms, of the host {captured["host"]:.1f} ms, '
            f'{captured["replays"]} replays',
            *(f'  {line}' for line in captured['log']),
        ]
    for kind in ('launches', 'waits', 'constants'):
        for batch, title in BATCHES.items():
            lines.append(
                _line(
                    f'{kind}{title}',
                    [
                        str(job['launches'][batch][kind]) if 'launches' in job else '-'
                        for job in jobs.values()
                    ],
                )
            )
    for other, ratio in jobs['ours'].get('times_as_fast_as', {}).items():
        if other != 'ours':
            lines.append(f'ours is {ratio:.2f} times as fast as {other}')
    loader = report.get('loader', {})
    for name, rate in loader.items():
        ratio = f', {loader["ours"] / rate:.2f} times less than ours' if name != 'ours' else ''
        lines.append(f'with its own loader, {name}: {rate:.2f} images/s{ratio}')
    if 'losses' in report:
        found = report['losses']
        lines.append(
            f'losses without chance: ours {found["ours"]:.6f}, A {found["A"]:.6f}; most '
            f'apart in {found["worst_term"]}, by {found["worst_difference"]:.1e}'
        )
    for kind, images in report.get('largest_batch', {}).items():
        lines.append(f'largest batch, {kind}: {images} images')
    return '\n'.join(lines)


def _line(title: str, cells: list[str]) -> str:
    return f'{title:<30}' + ''.join(f'{cell:>20}' for cell in cells)
