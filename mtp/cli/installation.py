"""``mtp info``: versions, devices, and the backend of each operator."""

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print the report of :mod:`mtp.info`."""
    argparse.ArgumentParser(prog, description=__doc__).parse_args(arguments)
    from mtp.info import report

    print(report())
