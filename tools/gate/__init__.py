"""Check, on a machine without a GPU, that the compiled code of a training step would run on one.

``python -m tools.gate --help`` says how to run it; docs/benchmarks has what it found.
"""
