"""GPU kernels, one module per operator, named like its torch twin in :mod:`mtp.ops`.

A module is imported only after :func:`mtp.ops.dispatch.use_triton` has chosen its kernel, and it
imports no operator: :mod:`mtp.ops.dispatch` knows its twin. It has the kernels, a launcher
registered as a ``torch.library`` operator (fake, autograd and twin included) and
``compile_cases()``: every set of meta-parameters that its launchers can pick, which the tests
compile without a GPU.

Run-time parameters of kernels, numbers too, are annotated ``tl.tensor``, from which Triton infers
nothing. From an annotation such as ``int`` it would take the type to compile for. It evaluates
annotations with its own semantics, so those that are more than a name are quoted.
"""
