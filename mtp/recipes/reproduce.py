"""What released finetuned checkpoints measure, beside what was published."""

from mtp.recipes.table import Results


def compare(results: Results, model: str, metrics: dict[str, float]) -> str:
    """Table of measured and published figures, in percent.

    Args:
        results: of the data set, with a ``key``.
        model: name.
        metrics: of ``tools/test.py``.
    """
    rows = [
        (results.metric, results.key, results.published),
        (f'{results.metric}, without MTP', results.key, results.without_mtp),
    ]
    rows += [
        (f'{key} of the released log', key, of_models) for key, of_models in results.logged.items()
    ]
    rows = [
        (title, results.percent(metrics, key), of_models.get(model))
        for title, key, of_models in rows
    ]
    lines = [f'{"":<40}{"measured":>10}{"published":>11}{"difference":>12}']
    for title, measured, published in rows:
        if published is not None or title == results.metric:
            beside = (
                f'{"none":>11}'
                if published is None
                else f'{published:>11.2f}{measured - published:>+12.2f}'
            )
            lines.append(f'{title:<40}{measured:>10.2f}{beside}')
    return '\n'.join(lines)
