"""Tables of the gate's results."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.gate import counter
from tools.gate.devices import DEVICES
from tools.gate.own import Launch, key_of
from tools.gate.store import Store
from tools.gate.workloads import HEAVIEST


@dataclass
class Part:
    """Costs of a part of a workload on a device.

    Attributes:
        graphs: number of forward and backward passes, one for each shape that Dynamo compiles for.
        serial: processor seconds of tracing and lowering.
        compiling: processor seconds of compiling its kernels.
        longest: processor seconds of compiling its slowest kernel.
        launches: number of launches in a step.
    """

    graphs: int = 0
    backward: int = 0
    nodes: int = 0
    serial: float = 0.0
    launches: int = 0
    kernels: set[str] = field(default_factory=set)
    compiling: float = 0.0
    longest: float = 0.0
    shared: int = 0
    registers: int = 0
    missing: int = 0


@dataclass
class Found:
    """Results of a run.

    Attributes:
        parts: parts by workload and capability, then by title.
        uncompiled: workload -> place in the step -> launches of what runs uncompiled.
        kept: workload -> memory that a step keeps for its backward pass, MB an image.
        own: kernel of the project -> capability -> largest shared memory (bytes), registers and
            stack (bytes).
        refused, breaks, cut: lines about refused graphs and kernels, graph breaks, and work that
            was not run.
    """

    parts: dict[tuple[str, int], dict[str, Part]] = field(default_factory=dict)
    uncompiled: dict[str, dict[str, int]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    own: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return bool(self.refused or self.breaks)


def collect(
    store: Store, workloads: list[str], capabilities: list[int], others: list[int]
) -> Found:
    """Collect the rows of a store; the arguments are those of the command line."""
    found, graphs, kernels = Found(), store.graphs(), store.kernels()
    names: dict[str, str] = {}
    for workload in workloads:
        rows = store.rows(workload)
        if not rows['step']:
            found.cut.append(f'{workload}: not traced to its end')
        for row in rows['step']:
            found.uncompiled[workload] = row['uncompiled']
            if row['kept'] is not None:
                found.kept[workload] = row['kept']
        found.breaks += [f'{workload}: {row["part"]}: {row["reason"]}' for row in rows['break']]
        for capability in capabilities:
            parts = defaultdict(Part)
            for row in rows['trace']:
                mine = [
                    graphs[key] for key in row['keys'] if graphs[key]['capability'] == capability
                ]
                _add(parts[row['part']], row, mine, kernels)
                for graph in mine:
                    names |= {
                        key: f'{workload}: {row["part"]}: {name}'
                        for key, name in graph['kernels'].items()
                    }
                    if graph['refused']:
                        found.refused.append(f'{workload}: {row["part"]}: {graph["refused"]}')
            found.parts[workload, capability] = dict(parts)
            missing = sum(part.missing for part in parts.values())
            if missing:
                found.cut.append(f'{workload}: {missing} kernels for {_spelled(capability)}')
    names |= _own(found, store, workloads, {*capabilities, *others}, kernels)
    for capability, keys in heaviest_missing(store, workloads, capabilities, others).items():
        if keys:
            found.cut.append(f'{len(keys)} of the heaviest kernels for {_spelled(capability)}')
    for (key, capability), row in kernels.items():
        if row['refused'] and key in names:
            found.refused.append(
                f'{names[key]} ({key}) for {_spelled(capability)}: {row["refused"]}'
            )
    return found


def _own(
    found: Found,
    store: Store,
    workloads: list[str],
    capabilities: set[int],
    kernels: dict[tuple[str, int], dict],
) -> dict[str, str]:
    """Add the project's own kernels; return their names by key."""
    launches = own_launches(store, workloads)
    for capability in capabilities:
        rows = {key: kernels[key, capability] for key in launches if (key, capability) in kernels}
        for key, row in rows.items():
            of_devices = found.own.setdefault(_name(launches[key]), {})
            needs = row['shared'], row['registers'], row['spilled']
            of_devices[capability] = tuple(map(max, of_devices.get(capability, needs), needs))
        if len(rows) < len(launches):
            found.cut.append(
                f"{len(launches) - len(rows)} launches of the project's kernels for "
                f'{_spelled(capability)}'
            )
    return {key: _name(launch) for key, launch in launches.items()}


def _name(launch: Launch) -> str:
    return f'{launch["module"].rpartition(".")[2]}.{launch["kernel"]}'


def own_table(found: Found) -> str:
    """Return shared memory, registers and stack of the project's kernels on each device."""
    if not found.own:
        return ''
    lines = [
        '| kernel | '
        + ' | '.join(
            f'{_spelled(c)}, of {d.shared_memory_per_block_optin // 1024} KiB'
            for c, d in DEVICES.items()
        )
        + ' |',
        '| --- ' + '| --: ' * len(DEVICES) + '|',
    ]
    for name, of_devices in sorted(found.own.items()):
        cells = [' / '.join(map(str, of_devices[c])) if c in of_devices else '-' for c in DEVICES]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _add(part: Part, row: dict, graphs: list[dict], kernels: dict[tuple[str, int], dict]) -> None:
    part.serial += row['dynamo'] + row['aot']
    for graph in graphs:
        part.graphs += 1
        part.backward += graph['backward']
        part.nodes += graph['nodes']
        part.serial += graph['seconds']
        calls = row['calls'] - row['again'] if graph['backward'] else row['calls']
        part.launches += calls * counter.of_calls(graph['calls'])
        for key in graph['kernels'].keys() - part.kernels:
            part.kernels.add(key)
            compiled = kernels.get((key, graph['capability']))
            if compiled is None:
                part.missing += 1
                continue
            part.compiling += compiled['seconds']
            part.longest = max(part.longest, compiled['seconds'])
            part.shared = max(part.shared, compiled['shared'])
            part.registers = max(part.registers, compiled['registers'])


def graphs_of(store: Store, workloads: list[str]) -> Iterator[list[dict]]:
    """Yield the lowered graphs of each part of each workload."""
    graphs = store.graphs()
    for workload in workloads:
        parts = defaultdict(list)
        for row in store.rows(workload)['trace']:
            parts[row['part']] += [graphs[key] for key in row['keys']]
        yield from parts.values()


def own_launches(store: Store, workloads: list[str]) -> dict[str, Launch]:
    """Return the launches of the project's kernels by key."""
    return {key_of(row): row for workload in workloads for row in store.rows(workload)['own']}


def heaviest_missing(
    store: Store, workloads: list[str], capabilities: list[int], others: list[int]
) -> dict[int, list[str]]:
    """Return capability -> keys of the heaviest kernels that have not been compiled for it.

    The heaviest kernels of a part are those that need most shared memory, or most registers, on the
    first of the ``capabilities``. The arguments are those of the command line.
    """
    done = store.kernels()
    chosen = _heaviest(store, workloads, capabilities[0])
    return {
        capability: [key for key in chosen if (key, capability) not in done]
        for capability in others
        if capability not in capabilities
    }


def _heaviest(store: Store, workloads: list[str], capability: int) -> list[str]:
    kernels, chosen = store.kernels(), {}
    for graphs in graphs_of(store, workloads):
        rows = [
            kernels[key, capability]
            for graph in graphs
            if graph['capability'] == capability
            for key in graph['kernels']
            if (key, capability) in kernels
        ]
        rows.sort(key=lambda row: (row['shared'], row['registers']), reverse=True)
        chosen |= {row['key']: None for row in rows[:HEAVIEST]}
    return list(chosen)


def table(found: Found) -> str:
    """Return a table in Markdown: a row for each part, with sums."""
    lines = [
        '| workload | capability | part | graphs | backward | nodes | kernels | serial, s | '
        'kernels, s | longest, s | launches | shared, KiB | registers |',
        '| --- | --: | --- ' + '| --: ' * 10 + '|',
    ]
    for (workload, capability), parts in found.parts.items():
        for title, part in [*parts.items(), ('all', _sum(parts))]:
            lines.append(
                f'| {workload} | {_spelled(capability)} | {title} | {part.graphs} | '
                f'{part.backward} | {part.nodes} | {len(part.kernels)} | {part.serial:.1f} | '
                f'{part.compiling:.1f} | {part.longest:.1f} | {part.launches} | '
                f'{part.shared / 1024:.0f} | {part.registers} |'
            )
        launches = found.uncompiled.get(workload)
        if launches:
            spelled = ', '.join(f'{where} {number}' for where, number in launches.items())
            lines.append(
                f'| {workload} | | uncompiled: {spelled} |{" |" * 7} {sum(launches.values())} | | |'
            )
        if workload in found.kept:
            lines.append(
                f'| {workload} | | kept for the backward pass: {found.kept[workload]:.0f} MB an '
                f'image |{" |" * 10}'
            )
    return '\n'.join(lines)


def _sum(parts: dict[str, Part]) -> Part:
    total = Part()
    for part in parts.values():
        for name in ('graphs', 'backward', 'nodes', 'serial', 'launches', 'compiling', 'missing'):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        for name in ('longest', 'shared', 'registers'):
            setattr(total, name, max(getattr(total, name), getattr(part, name)))
        total.kernels |= part.kernels
    return total


def faults(found: Found) -> str:
    """Return failures, and work that was not run, a line each."""
    sections = {'refused': found.refused, 'breaks': found.breaks, 'not run': found.cut}
    return '\n'.join(
        line
        for title, lines in sections.items()
        for line in (f'{title}: {len(lines)}', *(f'  {line}' for line in lines))
    )


def _spelled(capability: int) -> str:
    return f'{capability // 10}.{capability % 10}'
