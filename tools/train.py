"""Alias of ``mtp train``."""

from mtp.cli.train import main

if __name__ == '__main__':
    main()
