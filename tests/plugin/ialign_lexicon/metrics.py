"""A metric of classification: the share of wrong answers."""

from ialign_ray.evaluation.metrics.classification import gold, predict, scores
from ialign_ray.evaluation.metrics.registry import Metric


def wrong(cell):
    """Share of answers that are wrong, in every resample; ties count in part."""
    truth = cell.shared(gold)
    right = predict(cell.shared(scores))[range(len(truth)), truth]
    return cell.mean(1 - right)


ERROR_RATE = Metric("error rate", wrong, kinds=("classification",), higher_is_better=False)
