"""Which evaluations can be compared, and what the first champion is compared with."""

from itertools import pairwise

import pandas as pd
import pytest
from runs import chosen, small_experiment, suite

from ialign_ray.config import override
from ialign_ray.errors import RegistryError
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.registry.attempts import Attempts
from ialign_ray.registry.evidence import Evidence, GateReferences, decide

WEAK = {"eng": 1.0, "ind": 0.0, "jav": 0.0}
STRONG = {"eng": 1.0, "ind": 1.5, "jav": 1.5}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return small_experiment(tmp_path_factory.mktemp("evidence"), "model")


def predicted(experiment, strength, name="mine/1", noise=0):
    frames = {u.suite: chosen(u.rows, u.prompt, strength, noise) for u in suite_units(experiment)}
    return Evidence(name, experiment, frames)


def over_champion(candidate, champion, attempts=None, **others):
    """The decision, with a base and a control that are easily beaten."""
    chance = {name: Evidence(name, candidate.experiment, floor(candidate.frames)) for name in ("base", "control")}
    return decide(candidate, GateReferences(**{**chance, "champion": champion, **others}), attempts)


def floor(frames):
    """The same rows by a model that knows nothing of new languages, and no more of old ones than any other."""
    return {name: without(frame) for name, frame in frames.items()}


def without(frame):
    if "sum" not in frame.columns:
        return frame
    scores = [[0.0, 0.0] if language != "eng" else row for language, row in zip(frame["language"], frame["sum"])]
    return frame.assign(**dict.fromkeys(("sum", "mean", "calibrated"), scores))


def over_references(candidate, base, control):
    return decide(candidate, GateReferences(base, control))


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


@pytest.mark.parametrize("change", [{"path": "elsewhere.parquet"}, {"competency": "reasoning"}])
def test_where_the_rows_lie_does_not_matter(experiment, change):
    moved = override(experiment, {f"evaluate.suites.mood.{field}": value for field, value in change.items()})
    frames = predicted(experiment, STRONG).frames
    assert over_champion(Evidence("mine/2", moved, frames), predicted(experiment, WEAK)).accepted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.scorer": "mean"}, "evaluate.scorer is 'mean' and 'sum'"),
        ({"evaluate.resamples": 300}, "evaluate.resamples is 300 and 200"),
        ({"languages.l1": ["eng", "jav"], "languages.l2": ["ind"]}, "different groups"),
        ({"evaluate.suites": [suite("mood"), suite("tone")]}, "suite 'tone' was evaluated for mine/2 only"),
        ({"evaluate.suites.mood.prompts.0.text": "{text}\nWell?"}, "suite 'mood' has different settings"),
        ({"evaluate.suites.mood.labels.bad.eng": "awful"}, "suite 'mood' has different settings"),
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
    refused(other_rows(evidence, id=frame["id"] + "x"), evidence, "share no sentence id of eng")
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


def test_sentences_of_ones_own_choice_are_refused(experiment):
    """A candidate that was evaluated on forty ids of its choice was promoted."""
    evidence = predicted(experiment, STRONG, "mine/2")
    each = {"mood": evidence.frames["mood"].groupby("language").head(40)}
    refused(
        Evidence("mine/2", experiment, each), predicted(experiment, WEAK), "mine/2 lacks 80 of the 120 sentences of eng"
    )
    one = {"mood": evidence.frames["mood"].iloc[1:]}
    refused(predicted(experiment, WEAK), Evidence("mine/2", experiment, one), "mine/2 lacks 1 of the 120 sentences")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.suites.mood.where": {"sid": ["s1", "s2"]}}, "evaluate.suites.mood.where is"),
        ({"evaluate.suites.mood.limit": 50}, "evaluate.suites.mood.limit is 50 and None"),
        ({"evaluate.suites.mood.test_limit": 50}, "evaluate.suites.mood.test_limit is 50 and None"),
    ],
)
def test_what_chooses_the_sentences_is_compared(experiment, changes, said):
    frames = predicted(experiment, STRONG).frames
    refused(Evidence("mine/2", override(experiment, changes), frames), predicted(experiment, WEAK), said)


def test_other_texts_under_the_same_ids_are_refused(experiment):
    one, two = predicted(experiment, STRONG, "mine/2"), predicted(experiment, WEAK)
    moved = override(experiment, {"evaluate.suites.mood.path": "elsewhere.parquet"})
    refused(
        Evidence("mine/2", moved, one.frames, {"mood": "a1"}),
        Evidence("mine/1", experiment, two.frames, {"mood": "b2"}),
        "suite 'mood' holds other data (elsewhere.parquet and suite.parquet): its texts have different hashes",
    )
    assert over_champion(Evidence("mine/2", moved, one.frames, {"mood": "a1"}), two).accepted  # not known of the other


def test_old_work_is_held_against_base_present_and_best_champion(experiment):
    """Each "kept" against the present champion: ten candidates in a row cost .50 F1."""
    strengths = [{"eng": 1.6 - 0.3 * k, "ind": 0.2 + 0.25 * k, "jav": 0.2 + 0.25 * k} for k in range(5)]
    wide = override(experiment, {"evaluate.tolerance": 0.2})
    models = [predicted(wide, strength, f"mine/{k + 1}") for k, strength in enumerate(strengths)]
    for champion, candidate in pairwise(models[1:]):
        assert over_champion(candidate, champion).accepted
    crept = over_champion(models[-1], models[-2], best=models[0])
    assert [text for text in crept.refusals if "eng (mood): worse" in text and "against mine/1" in text]
    base = over_champion(models[-1], models[-2], base=Evidence("base", wide, models[0].frames))
    assert any("eng (mood): worse" in text and "against base" in text for text in base.refusals)


def test_every_champion_must_beat_the_control_and_the_control_cannot_pass(experiment):
    strong, weak = predicted(experiment, STRONG, "mine/2"), predicted(experiment, WEAK)
    control = predicted(experiment, STRONG, "control", noise=1)
    assert any("against control" in text for text in over_champion(strong, weak, control=control).refusals)
    assert any("no replay-only control" in text for text in over_champion(strong, weak, control=None).refusals)
    replay = override(experiment, {"replay.ratio": 1.0, "replay.sources": [{"path": "old.jsonl"}]})
    with pytest.raises(RegistryError, match="replay.ratio is 1"):
        over_champion(Evidence("mine/2", replay, strong.frames), weak)


def test_a_least_gain_is_declared(experiment):
    strong, weak = predicted(experiment, STRONG, "mine/2"), predicted(experiment, WEAK)
    for least, accepted in ((0.1, True), (0.9, False), ({"mood": 0.9}, False), ({"other": 0.9}, True)):
        asking = Evidence("mine/2", override(experiment, {"promotion.least_gain": least}), strong.frames)
        assert over_champion(asking, weak).accepted == accepted
    assert (
        "not shown better by more than 0.9"
        in over_champion(
            Evidence("mine/2", override(experiment, {"promotion.least_gain": 0.9}), strong.frames), weak
        ).refusals[0]
    )


def test_a_late_attempt_must_show_more(experiment):
    better, weak = (
        predicted(experiment, WEAK | {"ind": 0.3, "jav": 0.3}, "mine/2", noise=1),
        predicted(experiment, WEAK),
    )
    assert over_champion(better, weak).accepted
    late = over_champion(better, weak, Attempts(400))
    assert not late.accepted
    assert "attempt 400 at these test sentences" in late.refusals[0]
    with pytest.raises(RegistryError, match=r"used up: 3 attempts were declared .* 4 models were scored .* fresh"):
        over_champion(better, weak, Attempts(4, declared=3))


def test_the_first_champion_must_beat_base_and_control(experiment):
    base, control = predicted(experiment, WEAK, "base"), predicted(experiment, STRONG, "control", noise=1)
    strong = predicted(experiment, STRONG)
    chance = predicted(experiment, WEAK, "control")
    assert over_references(strong, base, chance).accepted
    decision = over_references(strong, base, control)
    assert [text for text in decision.refusals if "against control" in text] == decision.refusals != []
    forgot = over_references(predicted(experiment, STRONG | {"eng": 0.0}), base, chance)
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
