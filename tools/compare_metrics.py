"""Table of the metrics of two evaluations: ``compare_metrics.py BEFORE.json AFTER.json``."""
import argparse
import json
from pathlib import Path


def table(before: dict[str, float], after: dict[str, float]) -> str:
    """One line per metric that both have."""
    names = [name for name in after if name in before]
    width = max(map(len, names), default=0)
    return '\n'.join(f'{name:<{width}}  {before[name]:8.4f} -> {after[name]:8.4f}'
                     for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('before', type=Path, help='a metrics.json of tools/test.py')
    parser.add_argument('after', type=Path)
    args = parser.parse_args()
    print(table(*(json.loads(path.read_text()) for path in (args.before, args.after))))


if __name__ == '__main__':
    main()
