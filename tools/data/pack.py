"""Alias of ``mtp data pack``."""

from mtp.cli.data.pack_dataset import main

if __name__ == '__main__':
    main()
