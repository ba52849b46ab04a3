"""``python -m mtp`` is the command ``mtp``."""

from mtp.cli.main import main

if __name__ == '__main__':
    main()
