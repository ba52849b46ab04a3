"""Alias of ``mtp data samrs-to-coco``."""

from mtp.cli.data.samrs_to_coco import main

if __name__ == '__main__':
    main()
