"""Alias of ``mtp data check``."""

from mtp.cli.data.check_dataset import main

if __name__ == '__main__':
    main()
