"""Alias of ``mtp data prepare``."""

from mtp.cli.data.prepare_dataset import main

if __name__ == '__main__':
    main()
