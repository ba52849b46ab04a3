"""Check, on a machine without a GPU, that what a training step compiles starts on one.

``python -m tools.gate --help`` tells how to run it, ``docs/benchmarks`` what it found.
"""
