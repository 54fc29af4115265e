"""Attempts at one test set: what counts, what each may spend, and what is refused."""

import json

import pandas as pd
import pytest
from runs import BEST, GOOD, STRENGTHS, WEAK, make_run

from ialign_ray.errors import RegistryError
from ialign_ray.registry.attempts import ALPHA, Attempts, looks, sketch
from ialign_ray.registry.decisions import Event, Head, head, refuse_torn
from ialign_ray.registry.promotion import alpha_left, promote, register
from ialign_ray.registry.run_evidence import VERSION, evidence


def rows(ids, language="jav", prompt="a"):
    return pd.DataFrame({"language": language, "id": [str(i) for i in ids], "prompt": prompt, "label": 1, "chars": 9})


def test_alpha_is_spent_and_never_more_than_there_is():
    spent = [Attempts(k).alpha for k in range(1, 5000)]
    assert sum(spent) < ALPHA
    assert spent == sorted(spent, reverse=True)
    assert Attempts(7).left == pytest.approx(ALPHA - sum(spent[:7]))
    declared = [Attempts(k, declared=20) for k in (1, 20, 21)]
    assert [a.alpha for a in declared] == [ALPHA / 20, ALPHA / 20, 0.0]
    assert [a.left for a in declared] == pytest.approx([ALPHA * 0.95, 0.0, 0.0])


def test_a_part_of_the_test_sentences_is_the_same_test_set_and_fresh_ones_are_not():
    whole = sketch([rows(range(400))])
    assert whole & sketch([rows(range(400), prompt="b")])
    assert whole & sketch([rows(range(0, 400, 4))])
    assert not whole & sketch([rows(range(400, 800))])
    assert not whole & sketch([rows(range(400), language="sun")])


@pytest.mark.slow
def test_every_model_that_was_scored_on_the_sentences_counts(registry, library, tmp_path):
    promote(registry, "mine", WEAK)
    first = head(registry, "mine", "champion").events[0]
    assert first.attempt == len(STRENGTHS)  # all of them were registered with their scores; the control is none
    assert "attempt 4 at these test sentences" in first.told[0]
    version = registry.version("mine", GOOD)
    own = evidence(registry.fetch(version), version.title)[VERSION]
    seen = looks(library / "runs", own.rows)
    assert {path.rpartition("/")[2] for path in seen.values()} == set(STRENGTHS)
    assert looks(library / "runs", frozenset({"other"})) == {}
    # another name in the registry, and a run that was only evaluated, are looks as well
    storage = own.experiment.storage.model_copy(update={"runs": str(tmp_path / "runs")})
    other = own.experiment.model_copy(update={"name": "second", "storage": storage})
    control = make_run(other, "control", {"eng": 1.0, "ind": 0.0, "jav": 0.0}, 19, ratio=1.0)
    for seed, name in enumerate(("looked-at", "registered"), 20):
        run = make_run(other, name, STRENGTHS["good"], seed)
    register(registry, run, "second", control=control)
    promote(registry, "mine", BEST)
    assert head(registry, "mine", "champion").events[-1].attempt == len(STRENGTHS) + 2
    assert "6 models were scored on them" in alpha_left(registry, "mine", head(registry, "mine", "champion"))


def test_a_version_that_was_registered_without_its_rows_still_counts(registry, monkeypatch):
    for number in (WEAK, GOOD, BEST):
        registry.call("delete_model_version_tag", "mine", str(number), "ialign.rows")
    promote(registry, "mine", BEST)
    assert head(registry, "mine", "champion").events[0].attempt == len(STRENGTHS)


def test_declared_attempts_can_be_used_up(registry, monkeypatch):
    monkeypatch.setattr("ialign_ray.registry.promotion.Attempts", lambda number, _: Attempts(number, 3))
    with pytest.raises(RegistryError, match=r"used up: 3 attempts were declared .*4 models .*fresh test sentences"):
        promote(registry, "mine", BEST)


def test_a_history_with_a_missing_decision_is_refused(registry):
    seen = Head(2, (Event("promoted", 1, None, number=1), Event("promoted", 2, 1, number=3)))
    with pytest.raises(RegistryError, match="history of mine lacks decision 2"):
        refuse_torn(seen, "mine")
    promote(registry, "mine", WEAK, force="x")
    promote(registry, "mine", GOOD, force="x")
    registry.call("delete_registered_model_tag", "mine", "ialign.history.champion.000001")
    with pytest.raises(RegistryError, match="history of mine lacks decision 1"):
        promote(registry, "mine", BEST)


def test_events_of_earlier_registries_are_read(registry):
    promote(registry, "mine", WEAK, force="x")
    key = "ialign.history.champion.000001"
    kept = json.loads(registry.model("mine").tags[key])
    del kept["attempt"]
    registry.call("set_registered_model_tag", "mine", key, json.dumps(kept))
    assert head(registry, "mine", "champion").events[0].attempt == 0
    assert alpha_left(registry, "mine", head(registry, "mine", "champion")) is None
