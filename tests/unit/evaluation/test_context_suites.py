"""Classification with exemplars, pairs and words in the prompt, by a tiny model."""

import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tiny_corpus import tiny_experiment

from ialign_ray.config import build_experiment
from ialign_ray.config.contexts import ContextConfig
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.results.summary import summarise
from ialign_ray.evaluation.scoring.context_suites import contexted_units
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.subjects import base_subject, open_scorer
from ialign_ray.inference.calibration import CONTENT_FREE, prior
from ialign_ray.inference.scoring import score_continuations
from ialign_ray.workflows.evaluate import with_contexts

CONTEXTS = [
    {"name": "icl", "exemplars": {"k": [1, 2]}},
    {"name": "x-icl", "exemplars": {"language": "eng", "retriever": ["bm25", "characters"], "k": 2, "form": "turns"}},
    {"name": "t-icl", "exemplars": {"language": "eng", "through": "pairs", "k": 1}},
    {"name": "permuted", "exemplars": {"k": 2, "labels": "permuted"}},
    {"name": "balanced", "exemplars": {"language": "any", "balanced": True, "k": 4, "form": "table"}},
    {"name": "pairs", "pairs": {"k": 2}},
    {"name": "words", "dictionary": {"path": "words.csv", "language": "code", "translation": "eng"}},
    {"name": "own-layer", "exemplars": {"retriever": ["model:last", "bm25"], "k": 2}},
    {"name": "labels", "labels": {"exemplars": "ind", "line": True}, "exemplars": {"k": 1}},
]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, tiny_model_folder):
    folder = tmp_path_factory.mktemp("contexts")
    data = tiny_experiment(folder, tiny_model_folder)
    pd.DataFrame(
        {"code": ["jav", "jav", "eng"], "word": ["apik", "ora", "good"], "eng": ["good", "not", "good"]}
    ).to_csv(folder / "words.csv", index=False)
    suite = data["evaluate"]["suites"][0]
    for label, words in suite["labels"].items():
        words.setdefault("ind", f"{label}-ind")
    data["evaluate"]["contexts"] = CONTEXTS
    return build_experiment(data, "test")


@pytest.fixture(scope="module")
def scorer(experiment):
    return open_scorer(experiment, None)


@pytest.fixture(scope="module")
def unit_of(experiment):
    """Function of a context's name that returns its unit."""
    return {unit.context: unit for unit in contexted_units(experiment, names(CONTEXTS))}.__getitem__


def names(contexts):
    return [variant.name for context in contexts for variant in ContextConfig.model_validate(context).variants]


def blocks(unit, k=0):
    return json.loads(unit.rows["context"].iloc[k])


@pytest.mark.parametrize("name", names(CONTEXTS))
def test_predictions_with_a_context_depend_on_no_other_row(scorer, unit_of, name):
    unit = unit_of(name)
    rows = unit.rows.groupby("language").head(1).reset_index(drop=True)  # one per language
    whole = unit.predict(scorer, rows)
    alone = unit.predict(scorer, rows.iloc[[1]].reset_index(drop=True))
    for column in ("sum", "mean", "calibrated"):
        np.testing.assert_allclose(alone[column][0], whole[column][1], atol=1e-4)
    assert whole["dropped"].eq(0).all()


def test_scores_are_those_of_one_pass_for_each_label(scorer, unit_of):
    unit = unit_of("icl-k2")
    row = unit.rows.head(1)
    found = unit.predict(scorer, row)
    exemplars = blocks(unit)["exemplars"]
    text = unit.text.replace

    def asked(question):
        shown = [f"{text('{text}', texts['text'])}\n{word}" for texts, word in exemplars]
        return "\n\n".join([*shown, text("{text}", question)])

    def sums(question):
        prompt = scorer.encoder.prompt(asked(question))
        labels = scorer.encoder.labels(unit.words)
        return score_continuations(scorer.model, [prompt] * len(labels), labels).log_prob

    own = sums(row["text"].iloc[0])
    np.testing.assert_allclose(found["sum"][0], own, atol=1e-4)
    free = np.stack([sums(question) for question in CONTENT_FREE])
    np.testing.assert_allclose(found["calibrated"][0], own - prior(free), atol=1e-4)


def test_exemplars_are_training_rows_in_their_language_the_nearest_last(experiment, unit_of):
    trained = suite_rows(experiment)
    for name, languages in (("icl-k2", None), ("x-icl", {"eng"}), ("balanced", {"eng", "ind", "jav"})):
        unit = unit_of(name)
        for stored, language in zip(unit.rows["context"], unit.rows["language"], strict=True):
            for texts, _ in json.loads(stored)["exemplars"]:
                assert trained[texts["text"]] <= (languages or {language})
    assert len(blocks(unit_of("icl-k1"))["exemplars"]) == 1
    two, one = (blocks(unit_of(f"icl-k{k}"))["exemplars"] for k in (2, 1))
    assert two[-1] == one[-1]


def suite_rows(experiment):
    from ialign_ray.evaluation.suites.load import classification_rows

    rows = classification_rows(experiment.evaluate.suites[0], experiment.storage.data).train
    return rows.groupby("text")["language"].agg(set).to_dict()


def test_pairs_words_and_label_lines(unit_of):
    pairs = unit_of("pairs")
    by_language = {code: json.loads(rows["context"].iloc[0]) for code, rows in pairs.rows.groupby("language")}
    assert by_language["eng"]["before"] == []  # the pivot needs no translation
    assert len(by_language["jav"]["before"]) == 2
    assert "(Javanese) means" in by_language["jav"]["before"][0]
    head = blocks(unit_of("labels"))["head"]
    assert len(head) == 1
    assert "-ind" in head[0]
    shown = blocks(unit_of("labels"))["exemplars"][0][1]
    assert shown.endswith("-ind")
    assert not any(word.endswith("-ind") for word in unit_of("labels").words)


def test_permuted_labels_keep_texts_and_the_number_of_each_label(unit_of):
    true, permuted = unit_of("icl-k2"), unit_of("permuted")
    pairs = list(zip(true.rows["context"], permuted.rows["context"], strict=True))
    sides = [[json.loads(one)["exemplars"] for one in pair] for pair in pairs]
    assert all([t for t, _ in a] == [t for t, _ in b] for a, b in sides)
    assert any([w for _, w in a] != [w for _, w in b] for a, b in sides)


def test_too_long_contexts_lose_whole_exemplars_and_are_counted(scorer, unit_of):
    unit = unit_of("icl-k2")
    row = unit.rows.head(1)
    lengths = {}
    for k in (1, 2):
        given = unit_of(f"icl-k{k}")
        context = blocks(given)["exemplars"]
        shown = [f"{given.text.replace('{text}', t['text'])}\n{w}" for t, w in context]
        lengths[k] = scorer.prompt_tokens("\n\n".join([*shown, given.text.replace("{text}", row["text"].iloc[0])]))
    short = type(unit)(**{**unit.__dict__, "max_tokens": lengths[2] - 1})
    found = short.predict(scorer, row)
    assert found[["blocks", "dropped"]].iloc[0].tolist() == [1, 1]
    one = unit_of("icl-k1")
    np.testing.assert_allclose(found["sum"][0], one.predict(scorer, one.rows.head(1))["sum"][0], atol=1e-4)
    with pytest.raises(DataError, match="nothing|no exemplar"):
        type(unit)(**{**unit.__dict__, "max_tokens": 3}).predict(scorer, row)


def test_predictions_without_a_context_are_those_of_an_experiment_without_contexts(experiment):
    plain = experiment.model_copy(update={"evaluate": experiment.evaluate.model_copy(update={"contexts": []})})
    before = [(unit.key, row_keys(unit.rows)) for unit in suite_units(plain)]
    assert [(unit.key, row_keys(unit.rows)) for unit in suite_units(experiment)] == before


def test_models_with_contexts_are_runs_next_to_those_without(experiment, monkeypatch):
    data = experiment.model_dump(mode="json")
    data["evaluate"]["contexts"] = [{"name": "icl", "exemplars": {"k": [1, 2]}}, CONTEXTS[3]]
    data["evaluate"]["suites"][0]["columns"] = {"eng": "eng", "jav": "jav"}
    experiment = build_experiment(data, "two languages")
    subjects = with_contexts(experiment, {"base": [base_subject(experiment)]})
    assert list(subjects) == ["base", "base + icl-k1", "base + icl-k2", "base + permuted"]
    every = [one for seeds in subjects.values() for one in seeds]
    frames = predict_models(experiment, every, Console(quiet=True))
    suite = experiment.evaluate.suites[0].name
    assert len({str(frame[suite]["sum"].iloc[0]) for frame in frames}) == len(frames)
    groups = experiment.languages.groups()
    runs = {
        name: measure(pd.concat(frame.values()), ResamplingPlan(groups, {suite: "classification"}))
        for name, frame in zip(subjects, frames, strict=True)
    }
    results = summarise(runs, {})
    votes = results[(results["metric"] == "vote_f1") & (results["scope"] == "all") & (results["prompt"] == "all")]
    assert set(votes["run"]) == {"base + icl-k1", "base + icl-k2", "base + permuted"}
    assert votes["value"].between(0, 1).all()

    def fail(*_):
        raise AssertionError("everything is stored")

    monkeypatch.setattr("ialign_ray.evaluation.scoring.worker.Work.score", fail)
    again = predict_models(experiment, every, Console(quiet=True))
    pd.testing.assert_frame_equal(again[1][suite], frames[1][suite])


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"exemplars": {"k": 10_000}}, DataError, r"contexts\.c\.exemplars\.k is 10000, but the pool has"),
        ({"exemplars": {"language": "sun"}}, DataError, "no training row in sun"),
        ({"exemplars": {"retriever": "nope"}}, ConfigError, r"contexts\.c\.exemplars\.retriever is 'nope'"),
        ({"pairs": {"language": "tha"}}, DataError, "no pair of"),
        ({"labels": {"answers": "tha"}}, ConfigError, "has no word"),
        ({"dictionary": {"path": "none.csv"}}, DataError, r"none\.csv"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(experiment, changes, error, says):
    data = experiment.model_dump(mode="json")
    data["evaluate"]["contexts"] = [{"name": "c"} | changes]
    with pytest.raises(error, match=says):
        contexted_units(build_experiment(data, "x"), ["c"])


@pytest.mark.parametrize(
    ("contexts", "says"),
    [
        ([{"name": "none", "pairs": {}}], "choose another name"),
        ([{"name": "a"}], "is empty"),
        ([{"name": "a", "pairs": {}}, {"name": "a", "pairs": {}}], "two contexts are called 'a'"),
        ([{"name": "a", "exemplars": {"k": [1, 2]}}, {"name": "a-k1", "pairs": {}}], "called 'a-k1'"),
        ([{"name": "a", "exemplars": {"through": "pairs"}}], "needs the `language`"),
        ([{"name": "a", "exemplars": {"suite": "nope"}}], "'nope', which is not a suite"),
        ([{"name": "a", "labels": {"line": True}}], "needs two languages"),
        ([{"name": "a", "exemplars": {"k": 0}}], "greater than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(experiment_data, contexts, says):
    experiment_data["evaluate"]["contexts"] = contexts
    with pytest.raises(ConfigError, match=says):
        build_experiment(experiment_data, "x")
