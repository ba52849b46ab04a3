"""A console line that can be read: one figure per task instead of dozens of loss terms."""
from mmengine.runner import LogProcessor, Runner

from mtp.registry import LOG_PROCESSORS


@LOG_PROCESSORS.register_module()
class TaskLossLogProcessor(LogProcessor):
    """mmengine's log line with the loss terms summed per task.

    A model logs its terms as ``<data set>.<task>.<term>``. The line of a training iteration shows,
    beside learning rate, time left, memory and the total loss, the sum of each task's losses over
    all data sets; terms without ``loss`` in their name (accuracies) are left out of it.
    TensorBoard and the json file still get every term.
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """All scalars of this iteration, and the line for the console."""
        scalars, line = super().get_log_after_iter(runner, batch_idx, mode)
        terms = {name: name.split('.') for name in scalars if name.count('.') == 2}
        totals: dict[str, float] = {}
        for name, (_, task, term) in terms.items():
            if 'loss' in term:
                totals[task] = totals.get(task, 0.0) + scalars[name]
        parts = [part for part in line.split('  ') if part.split(': ')[0] not in terms]
        parts += [f'{task}: {total:.{self.num_digits}f}' for task, total in totals.items()]
        return scalars, '  '.join(parts)
