"""Compile every kernel for sm_80 and sm_90, and print what it needs; no GPU is touched.

    python -m tests.ops.triton.compile_kernels [MODULE ...]

A program of its own, because ``TRITON_INTERPRET``, which the other tests need, makes Triton's own
library uncompilable. Exits with 1 where a kernel does not compile.
"""

import importlib
import os
import pkgutil
import sys
from concurrent.futures import ProcessPoolExecutor

os.environ.pop('TRITON_INTERPRET', None)

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

import mtp.ops.triton  # noqa: E402
from tools.gate.kernels import resources  # noqa: E402

CAPABILITIES = (80, 90)


def modules() -> list[str]:
    """Names of the modules that hold kernels."""
    return [
        info.name for info in pkgutil.iter_modules(mtp.ops.triton.__path__) if info.name != 'common'
    ]


def compile_case(job: tuple[str, int, int]) -> str:
    """Compile one case; a line with its registers, stack and shared memory in bytes."""
    module, number, capability = job
    case = list(importlib.import_module(f'mtp.ops.triton.{module}').compile_cases())[number]
    meta = ' '.join(f'{name}={value}' for name, value in case.constants.items())
    types = ','.join(dict.fromkeys(t for t in case.signature.values() if t[0] == '*'))
    title = f'{case.kernel.__name__} sm_{capability} warps={case.num_warps} {types} {meta}'
    # What torch allocates starts at a multiple of 16 bytes; launches are specialised for that.
    aligned = {
        (i,): [['tt.divisibility', 16]]
        for i, type_ in enumerate(case.signature.values())
        if type_[0] == '*'
    }
    source = ASTSource(
        fn=case.kernel, signature=case.signature, constexprs=case.constants, attrs=aligned
    )
    try:
        compiled = triton.compile(
            source,
            target=GPUTarget('cuda', capability, 32),
            options={'num_warps': case.num_warps, 'num_stages': case.num_stages},
        )
        registers, stack = resources(compiled.asm['cubin'])
        return f'ok    {title}: reg {registers}, stack {stack}, shared {compiled.metadata.shared}'
    except Exception as error:
        return f'FAIL  {title}: {type(error).__name__}: {error}'


def main() -> None:
    jobs = [
        (module, number, capability)
        for module in sys.argv[1:] or modules()
        for number, _ in enumerate(
            importlib.import_module(f'mtp.ops.triton.{module}').compile_cases()
        )
        for capability in CAPABILITIES
    ]
    with ProcessPoolExecutor() as pool:
        lines = list(pool.map(compile_case, jobs))
    print('\n'.join(lines))
    sys.exit(any(line.startswith('FAIL') for line in lines))


if __name__ == '__main__':
    main()
