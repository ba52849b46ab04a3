"""Alias of ``mtp data browse``."""

from mtp.cli.data.browse_samples import main

if __name__ == '__main__':
    main()
