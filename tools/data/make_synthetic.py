"""Alias of ``mtp data make-synthetic``."""

from mtp.cli.data.make_synthetic import main

if __name__ == '__main__':
    main()
