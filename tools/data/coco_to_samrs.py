"""Alias of ``mtp data coco-to-samrs``."""

from mtp.cli.data.coco_to_samrs import main

if __name__ == '__main__':
    main()
