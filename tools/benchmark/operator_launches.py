"""Count the kernels that mtp's operators launch on a GPU, without a GPU.

    python tools/benchmark/operator_launches.py [--only NAME ...] [--list]

Every operator of ``tools/benchmark/ops.py``, and the whole of a block's rotated window attention
between its two linear layers, runs once on a CPU with the operators of mtp opened: every aten
operator that launches a kernel counts, and each Triton kernel, which is counted and not run. In
bfloat16 it runs under autocast. ``fwd+bwd`` is forward and backward together.
"""

import argparse
from typing import Any

import mtp  # noqa: F401  (gives mmcv its operators: before the modules that import it)
from mtp.cli.errors import users_errors


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', nargs='+', metavar='NAME', help='operators; default: all')
    parser.add_argument('--list', action='store_true', help='name what is launched')
    return parser.parse_args()


def main() -> None:
    options = parse()
    with users_errors():
        rows = counted(options.only)
    print(f'{"launches":<32}{"dtype":<10}{"fwd":>5}{"fwd+bwd":>9}')
    for row in rows:
        print(f'{row["operator"]:<32}{row["dtype"]:<10}{row["fwd"]:>5}{row["fwd+bwd"]:>9}')
        if options.list:
            print(*(f'    {number} {name}' for name, number in row['kernels'].items()), sep='\n')


def counted(only: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the launches of each operator and dtype, and the names of what forward and backward
    launch together.

    Raises:
        ValueError: ``only`` names an operator that is not there.
    """
    import torch
    from counting.opened_launches import opened_launches
    from operators.cases import cases
    from operators.timing import caller, learn

    chosen = list(cases('tiny'))
    known = {case.operator for case in chosen}
    if set(only or ()) - known:
        raise ValueError(f'--only {" ".join(only)}: there are {", ".join(sorted(known))}')
    rows = []
    for case in chosen:
        if only and case.operator not in only:
            continue
        for dtype in (torch.float32, torch.bfloat16)[: 1 + case.low_precision]:
            row = {'operator': case.operator, 'dtype': str(dtype).removeprefix('torch.')}
            for mode in ('fwd', 'fwd+bwd')[: 1 + bool(case.learned)]:
                operands = learn(case, case.make(case.images, dtype, torch.device('cpu')))
                form = case.forms.get('kernel', case.forms['torch'])  # what a GPU runs
                call = caller(form, operands, case.learned, dtype, mode == 'fwd+bwd')
                call()  # makes the cotangent
                with opened_launches() as counter:
                    call()
                row[mode] = counter.launches.total()
            row.setdefault('fwd+bwd', '-')
            names: dict[str, int] = {}
            for (name, _), number in counter.launches.items():
                names[name] = names.get(name, 0) + number
            row['kernels'] = names
            rows.append(row)
    return rows


if __name__ == '__main__':
    main()
