"""Which evaluations can be compared, and what the first champion is compared with."""

import pandas as pd
import pytest
from runs import chosen, small_experiment, suite

from ialign_ray.config import override
from ialign_ray.errors import RegistryError
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.registry.evidence import Evidence, over_champion, over_references

WEAK = {"eng": 1.0, "ind": 0.0, "jav": 0.0}
STRONG = {"eng": 1.0, "ind": 1.5, "jav": 1.5}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return small_experiment(tmp_path_factory.mktemp("evidence"), "model")


def predicted(experiment, strength, name="mine/1", noise=0):
    frames = {u.suite: chosen(u.rows, u.prompt, strength, noise) for u in suite_units(experiment)}
    return Evidence(name, experiment, frames)


def refused(first, second, *parts):
    with pytest.raises(RegistryError) as caught:
        over_champion(first, second)
    for part in ("cannot be compared", "ialign evaluate", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_evaluation_is_compared(experiment):
    decision = over_champion(predicted(experiment, STRONG, "mine/2"), predicted(experiment, WEAK))
    assert decision.accepted
    assert not over_champion(predicted(experiment, WEAK, "mine/2"), predicted(experiment, STRONG)).accepted


def test_where_the_rows_lie_does_not_matter(experiment):
    moved = override(experiment, {"evaluate.suites.mood.path": "elsewhere.parquet"})
    frames = predicted(experiment, STRONG).frames
    assert over_champion(Evidence("mine/2", moved, frames), predicted(experiment, WEAK)).accepted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.scorer": "mean"}, "evaluate.scorer is 'mean' and 'sum'"),
        ({"evaluate.resamples": 300}, "evaluate.resamples is 300 and 200"),
        ({"languages.l1": ["eng", "jav"], "languages.l2": ["ind"]}, "different groups"),
        ({"evaluate.suites": [suite("mood"), suite("tone")]}, "suite 'tone' was evaluated for mine/2 only"),
        ({"evaluate.suites.mood.prompts.0.text": "{text}\nWell?"}, "suite 'mood' asks differently"),
        ({"evaluate.suites.mood.labels.bad.eng": "awful"}, "suite 'mood' asks differently"),
    ],
)
def test_another_evaluation_is_refused(experiment, changes, said):
    other = override(experiment, changes)
    refused(predicted(other, STRONG, "mine/2"), predicted(experiment, WEAK), said)


def other_rows(evidence, **columns):
    return Evidence("mine/2", evidence.experiment, {"mood": evidence.frames["mood"].assign(**columns)})


def test_other_test_sentences_are_refused(experiment):
    evidence = predicted(experiment, STRONG)
    frame = evidence.frames["mood"]
    refused(other_rows(evidence, id=frame["id"] + "x"), evidence, "share no sentence id")
    refused(other_rows(evidence, label=1 - frame["label"]), evidence, "holds other data: label of eng '2' is 1 and 0")
    refused(other_rows(evidence, chars=7), evidence, "chars of eng")
    only = {"mood": frame[frame["language"] != "jav"]}
    refused(Evidence("mine/2", experiment, only), evidence, "only one has jav")


def test_losses_per_token_of_two_tokenizers_are_refused_and_per_byte_are_not(experiment):
    old = {"kind": "instructions", "name": "old", "path": "x"}
    texts = {"kind": "perplexity", "name": "texts", "path": "x", "columns": {"eng": "e", "jav": "j"}}
    both = override(experiment, {"evaluate.suites": [suite("mood"), old, texts]})
    rows = pd.DataFrame({"id": [str(k) for k in range(40)], "nats": 5.0, "tokens": 4, "bytes": 20})
    frames = {
        **predicted(experiment, STRONG).frames,
        "old": rows.assign(suite="old", language="old"),
        "texts": pd.concat([rows.assign(suite="texts", language=code) for code in ("eng", "jav")]),
    }
    one = Evidence("mine/1", both, frames)
    finer = Evidence("mine/2", both, frames | {"texts": frames["texts"].assign(tokens=9)})
    assert any("(texts): kept" in check.text for check in over_champion(finer, one).checks)
    other = Evidence("mine/2", both, frames | {"old": frames["old"].assign(tokens=9)})
    refused(other, one, "'old' is counted in tokens of two tokenizers: tokens of old '0' is 9 and 4")


def test_sentences_that_one_lacks_are_left_out(experiment):
    evidence = predicted(experiment, STRONG, "mine/2")
    fewer = {"mood": evidence.frames["mood"].iloc[10:]}
    assert (
        "(n = 120" in over_champion(Evidence("mine/2", experiment, fewer), predicted(experiment, WEAK)).checks[0].text
    )
    each = {"mood": evidence.frames["mood"].groupby("language").head(50)}
    assert "(n = 50" in over_champion(Evidence("mine/2", experiment, each), predicted(experiment, WEAK)).checks[0].text


def test_the_first_champion_must_beat_base_and_control(experiment):
    base, control = predicted(experiment, WEAK, "base"), predicted(experiment, STRONG, "control", noise=1)
    strong = predicted(experiment, STRONG)
    assert over_references(strong, base, None).accepted
    decision = over_references(strong, base, control)
    assert [text for text in decision.refusals if "against control" in text] == decision.refusals != []
    forgot = over_references(predicted(experiment, STRONG | {"eng": 0.0}), base, None)
    assert [text[:21] for text in forgot.refusals] == ["eng (mood): worse by "]


def test_a_control_that_kept_more_old_skill_than_the_base_is_no_bar(experiment):
    base, control = predicted(experiment, WEAK, "base"), predicted(experiment, WEAK | {"eng": 3.0}, "control")
    assert over_references(predicted(experiment, STRONG), base, control).accepted


def test_the_suites_to_be_better_on(experiment):
    assert rules_of(experiment).better_on == {"mood"}
    translation = {
        "kind": "translation", "name": "flores", "path": "x", "columns": {"eng": "e", "jav": "j"},
        "directions": [["eng", "jav"]],
    }  # fmt: skip
    both = override(experiment, {"evaluate.suites": [suite("mood"), translation]})
    assert rules_of(both).better_on == {"mood"}
    assert rules_of(override(both, {"promotion.better_on": ["flores"]})).better_on == {"flores"}
    assert rules_of(override(both, {"evaluate.suites": [translation]})).better_on == {"flores"}
