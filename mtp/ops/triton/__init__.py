"""GPU kernels, one file a kernel, named like its torch twin in :mod:`mtp.ops`.

Nothing here is imported before :func:`mtp.ops.dispatch.use_triton` has said that it runs, and
nothing here imports an operator: :mod:`mtp.ops.dispatch` knows its twin. A module has the kernels,
a launcher registered as a ``torch.library`` operator (fake, autograd and twin included) and
``compile_cases()``: every set of meta-parameters that its launchers can pick, for the tests to
compile without a GPU.
"""
