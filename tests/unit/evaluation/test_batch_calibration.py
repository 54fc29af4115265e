"""Batch calibration: label scores relative to the mean probability over the rows of a language."""

import numpy as np
import pandas as pd

from ialign_ray.evaluation.metrics.classification import with_batch
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.scoring.prompted_suites import LabelUnit
from ialign_ray.evaluation.scoring.suite_kinds import SUITES


def frame(probabilities, language="jav"):
    """Predictions with these probabilities of labels; labels are those of the larger one after calibration."""
    sums = np.log(np.array(probabilities))
    return pd.DataFrame(
        {
            "suite": "mood",
            "language": language,
            "id": [f"{language}{k}" for k in range(len(sums))],
            "label": [k % 2 for k in range(len(sums))],
            "chars": 10,
            "prompt": "plain",
            "sum": list(sums),
            "mean": list(sums),
            "calibrated": list(sums),
        }
    )


BIASED = [(0.9, 0.1), (0.7, 0.3)]


def test_values_by_hand():
    found = np.stack(with_batch(frame(BIASED))["batch"])
    # the mean probabilities are .8 and .2
    np.testing.assert_allclose(found, np.log([[0.9 / 0.8, 0.1 / 0.2], [0.7 / 0.8, 0.3 / 0.2]]))


def test_each_row_counts_as_much_however_unlikely_its_labels_are():
    unlikely = frame(BIASED)
    unlikely.at[1, "sum"] = unlikely.at[1, "sum"] - 50
    found = np.stack(with_batch(unlikely)["batch"])
    np.testing.assert_allclose(found[1], np.log([0.7 / 0.8, 0.3 / 0.2]))


def test_languages_have_separate_priors_whatever_the_order_of_rows():
    both = pd.concat([frame(BIASED), frame([(0.2, 0.8), (0.4, 0.6)], "ind")]).iloc[[3, 0, 2, 1]]
    found = with_batch(both)
    assert found.index.tolist() == both.index.tolist()
    alone = with_batch(frame(BIASED)).set_index("id")["batch"]
    for i in alone.index:
        np.testing.assert_allclose(found.set_index("id")["batch"][i], alone[i])


def test_a_single_row_has_tied_labels_and_no_row_has_a_column():
    assert np.stack(with_batch(frame([(0.9, 0.1)]))["batch"]).tolist() == [[0, 0]]
    assert "batch" in with_batch(frame(BIASED).iloc[:0]).columns


def test_stored_predictions_get_the_scorer_when_they_are_read():
    unit = LabelUnit("mood", "plain", frame(BIASED), "{text}", ("text",), ("bad", "good"))
    whole = unit.finish(frame(BIASED * 20))
    found = measure(whole, ResamplingPlan({"jav": "L2"}, {"mood": "classification"}, resamples=10)).measures
    accuracy = {k.scorer: m.draws[0] for k, m in found.items() if (k.metric, k.scope) == ("accuracy", "language:jav")}
    assert accuracy["sum"] == accuracy["calibrated"] == 0.5
    assert accuracy["batch"] == 1.0
    right = SUITES["classification"].right
    assert right is not None
    assert right(whole, "batch").all()
