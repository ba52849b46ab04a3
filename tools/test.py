"""Alias of ``mtp test``."""

from mtp.cli.test import main

if __name__ == '__main__':
    main()
