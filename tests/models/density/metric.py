"""How many objects there are, as a density map: the figure."""

from mtp.evaluation.task_metrics import TaskMetric


class CountError(TaskMetric):
    """Mean absolute error of the number of objects in an image."""

    figures = ('MAE',)

    def reduce(self, sample, num_classes):
        found, truth = (sample[f'{row}_density']['density'].sum().item() for row in ('pred', 'gt'))
        return abs(found - truth)

    def evaluate(self, images, num_classes):
        return {'MAE': sum(images) / len(images)}
