"""Measured figures of released finetuned checkpoints beside the published ones."""

from typing import cast

from mtp.recipes.table import Results


def compare(results: Results, model: str, metrics: dict[str, float]) -> str:
    """Return a table of measured and published figures, in percent.

    Args:
        results: published figures of the data set, with a ``key``.
        model: name of the model.
        metrics: metrics that ``tools/test.py`` wrote.
    """
    key = cast(str, results.key)
    figures = [
        (results.metric, key, results.published),
        (f'{results.metric}, without MTP', key, results.without_mtp),
        *(
            (f'{key} of the released log', key, of_models)
            for key, of_models in results.logged.items()
        ),
    ]
    rows = [
        (title, results.percent(metrics, key), of_models.get(model))
        for title, key, of_models in figures
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
