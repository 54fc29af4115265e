"""Units of the kinds of suites, predicted by a tiny model and measured."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sacrebleu.metrics import CHRF
from sklearn.metrics import f1_score

from ialign_ray.config import build_experiment
from ialign_ray.config.suites import KINDS as CONFIGURED
from ialign_ray.evaluation.metrics.classification import SCORERS as SCORES
from ialign_ray.evaluation.metrics.registry import PERPLEXITY, RETRIEVAL, TRANSLATION
from ialign_ray.evaluation.report.tables import bias_table, suite_columns, table
from ialign_ray.evaluation.report.write import report
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.results.summary import summarise
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, suite_units
from ialign_ray.evaluation.subjects import open_scorer

COLUMNS = {
    "classification": ("suite", "prompt", "language", "id", "label", "chars"),
    "choice": ("suite", "prompt", "language", "id", "label", "chars", "options"),
    "translation": ("suite", "prompt", "language", "id", "nats", "tokens", "bytes", "mismatched_nats"),
    "instructions": ("suite", "language", "id", "source", "nats", "tokens", "bytes"),
    "perplexity": ("suite", "language", "id", "nats", "tokens", "bytes"),
    "retrieval": ("suite", "language", "id", "rank", "surface_rank", "candidates"),
    "generation": (
        "suite",
        "prompt",
        "language",
        "id",
        "source",
        "prompt_text",
        "references",
        "hypothesis",
        "new_tokens",
        "cut",
    ),
    "lm_eval": ("suite", "language", "id", "score", "chance"),
    "following": ("suite", "prompt", "language", "id", "prompt_text", "checks", "hypothesis", "new_tokens", "cut"),
}
GENERATED = ("source", "reference", "hypothesis", "new_tokens", "cut")


@pytest.fixture
def experiment(experiment_data):
    columns = {"eng": "eng", "ind": "ind", "jav": "jav"}
    texts = {"path": "suite.parquet", "id": "sid", "columns": columns}
    asked = [
        {"name": "a", "text": "From {source_language} to {target_language}: {source}"},
        {"name": "b", "language": "ind", "text": "Terjemahkan ke bahasa {target_language}: {source}"},
    ]
    made = {"kind": "translation", "pivot": "eng", "prompts": asked, "test_limit": 4}
    pair = {c: {"premise": c, "hypothesis": "label"} for c in columns}
    experiment_data["evaluate"]["suites"] += [
        texts | made | {"name": "mt"},
        texts | made | {"name": "written", "generate": True, "max_new_tokens": 6},
        texts | {"kind": "perplexity", "name": "text"},
        texts | {"kind": "retrieval", "name": "near", "pivot": "eng", "layer": "last"},
        {"kind": "instructions", "name": "old", "path": "old.jsonl", "limit": 4},
        {"kind": "classification", "name": "pairs", "path": "suite.parquet", "columns": pair, "id": "sid",
         "labels": {"bad": {"eng": "no"}, "good": {"eng": "yes"}},
         "prompts": [{"name": "p", "text": "{hypothesis}? {premise}"}]},
        texts | {"kind": "generation", "name": "open", "reference": {c: c for c in columns}, "max_new_tokens": 4,
                 "prompts": [{"name": "p", "text": "Repeat in {language}: {text}"}]},
        {"kind": "following", "name": "obey", "path": "pocket:following", "test_limit": 3, "max_new_tokens": 4,
         "long": {"language": "language", "text": "prompt", "join": "item", "values": {"eng": "eng", "ind": "ind"}}},
    ]  # fmt: skip
    return build_experiment(experiment_data, "test")


@pytest.fixture
def scorer(experiment):
    return open_scorer(experiment, None)


def predicted(units, scorer, suite, size=5):
    """Predictions of a suite, made in pieces of `size` rows."""
    frames = []
    for unit in (u for u in units if u.suite == suite):
        pieces = [unit.rows.iloc[k : k + size].reset_index(drop=True) for k in range(0, len(unit.rows), size)]
        frames.append(unit.finish(pd.concat([unit.predict(scorer, p) for p in pieces], ignore_index=True)))
    return pd.concat(frames, ignore_index=True)


def test_every_kind_has_units_columns_and_metrics():
    assert {name: kind.config for name, kind in SUITES.items()} == CONFIGURED
    assert [kind.name for kind in SUITES.values()] == list(SUITES)
    assert {name for name, kind in SUITES.items() if set(kind.columns) <= set(COLUMNS[name])} == set(COLUMNS)


def test_frames_hold_their_columns_and_every_shown_metric_is_measured(experiment, scorer):
    units = suite_units(experiment)
    groups = experiment.languages.groups()
    for suite in experiment.evaluate.suites:
        frame = predicted(units, scorer, suite.name)
        wanted = {*COLUMNS[suite.kind], *(SCORES if suite.kind == "classification" else ())}
        assert set(frame.columns) == wanted | (set(GENERATED) if suite.name == "written" else set())
        measured = measure(frame, ResamplingPlan(groups, {suite.name: suite.kind}, resamples=10))
        metrics = {key.metric for key in measured.measures}
        shown = set(SUITES[suite.kind].shown)
        absent = {"mt": {"chrf", "bleu", "chrf_over_copy"}, "open": {"off_target"}}  # too few texts to identify
        assert shown <= metrics | absent.get(suite.name, set()), suite.name
        assert {key.prompt for key in measured.measures} >= {"all"}


def test_prompts_of_a_translation_suite_are_units_and_name_languages_in_their_own(experiment):
    first, second = (u for u in suite_units(experiment) if u.suite == "mt")
    assert (first.prompt, second.prompt) == ("a", "b")
    assert first.rows["prompt"][0].startswith("From English to Indonesian: ")
    assert second.rows["prompt"][0].startswith("Terjemahkan ke bahasa Indonesia: ")
    assert len(first.rows) == 4 * 4
    assert first.key != second.key


def test_generated_text_is_the_models_own_and_scored_as_sacrebleu_does(experiment, scorer):
    frame = predicted(suite_units(experiment), scorer, "written")
    assert (frame["new_tokens"] <= 6).all()
    assert frame["cut"].any()  # a random model seldom ends by itself
    plan = ResamplingPlan(experiment.languages.groups(), {"written": TRANSLATION}, resamples=10)
    measures = {k: m for k, m in measure(frame, plan).measures.items() if k.metric == "chrf"}
    for key, found in measures.items():
        if key.scope.startswith("language:") and key.prompt != "all":
            rows = frame[(frame["language"] == key.scope[9:]) & (frame["prompt"] == key.prompt)]
            expected = CHRF(word_order=2).corpus_score(rows["hypothesis"].tolist(), [rows["reference"].tolist()]).score
            assert found.draws[0] == pytest.approx(expected)
    assert len(measures) > 8


def test_perplexity_is_the_likelihood_of_the_text_alone(experiment, scorer):
    frame = predicted(suite_units(experiment), scorer, "text")
    unit = next(u for u in suite_units(experiment) if u.suite == "text")
    text = unit.rows["target"][3]
    ids = scorer.encoder.label(text)
    start = scorer.encoder.tokenizer.eos_token_id
    with torch.no_grad():
        logits = scorer.model(input_ids=torch.tensor([[start, *ids]])).logits[0].log_softmax(-1)
    expected = -sum(float(logits[k, token]) for k, token in enumerate(ids))
    assert frame["nats"][3] == pytest.approx(expected, abs=1e-3)
    assert (frame["tokens"][3], frame["bytes"][3]) == (len(ids), len(text.encode()))
    plan = ResamplingPlan(experiment.languages.groups(), {"text": PERPLEXITY}, resamples=10)
    found = {k.metric: m.draws[0] for k, m in measure(frame, plan).measures.items() if k.scope == "language:jav"}
    jav = frame[frame["language"] == "jav"]
    assert found["bits_per_byte"] == pytest.approx(jav["nats"].sum() / np.log(2) / jav["bytes"].sum())
    assert found["perplexity"] == pytest.approx(np.exp(jav["nats"].sum() / jav["tokens"].sum()))


def test_retrieval_ranks_do_not_depend_on_the_pieces_and_find_copies(experiment, scorer):
    units = suite_units(experiment)
    first, second = (predicted(units, scorer, "near", size) for size in (3, 1000))
    pd.testing.assert_frame_equal(first, second)
    assert set(first["language"]) == {"eng-ind", "ind-eng", "eng-jav", "jav-eng"}
    assert (first["candidates"] == 16).all()
    plan = ResamplingPlan(experiment.languages.groups(), {"near": RETRIEVAL}, resamples=10)
    found = {k.metric: m.draws[0] for k, m in measure(first, plan).measures.items() if k.scope == "language:eng-jav"}
    assert found["retrieval_chance"] == pytest.approx(1 / 16)
    # a "translation" that is the sentence itself is found by any model that reads
    unit = next(u for u in units if u.suite == "near")
    eng = unit.rows[unit.rows["language"] == "eng"]
    copies = pd.concat([eng, eng.assign(language="ind"), eng.assign(language="jav")], ignore_index=True)
    ranks = unit.finish(unit.predict(scorer, copies))
    assert (ranks["rank"] == 0).all()
    assert (ranks["surface_rank"] == 0).all()


def test_a_language_that_lies_elsewhere_is_found_once_centred(experiment):
    """Javanese is English moved by a vector larger than any sentence's."""
    unit = next(u for u in suite_units(experiment) if u.suite == "near")
    rng = np.random.default_rng(0)
    meaning, offset = rng.normal(size=(16, 8)), 30 * np.eye(8)[0]
    frames = []
    for code, vectors in (("eng", meaning), ("ind", meaning), ("jav", meaning + offset)):
        rows = unit.rows[unit.rows["language"] == code]
        frames.append(rows.assign(vector=list(vectors.astype(np.float32))))
    stored = pd.concat(frames, ignore_index=True)
    found = unit.finish(stored)
    plain = replace(unit, centre=False).finish(stored)
    rank = {name: (f[f["language"] == "eng-jav"]["rank"] == 0).mean() for name, f in (("c", found), ("p", plain))}
    assert rank["p"] < 0.9
    assert rank["c"] == 1.0
    assert replace(unit, centre=False).key == unit.key


def test_directions_of_retrieval_cost_no_new_vectors(experiment):
    unit = next(u for u in suite_units(experiment) if u.suite == "near")
    data = experiment.model_dump(mode="json")
    near = next(s for s in data["evaluate"]["suites"] if s["name"] == "near")
    near |= {"pivot": None, "directions": [["ind", "jav"]]}
    other = next(u for u in suite_units(build_experiment(data, "x")) if u.suite == "near")
    assert other.key == unit.key
    assert other.pairs != unit.pairs


def test_pairs_of_texts_fill_their_own_slots(experiment, scorer):
    unit = next(u for u in suite_units(experiment) if u.suite == "pairs")
    asked = []
    real = scorer.labels

    def labels(prompts, words):
        asked.extend(prompts)
        return real(prompts, words)

    scorer.labels = labels
    unit.predict(scorer, unit.rows.head(1))
    row = unit.rows.iloc[0]
    assert asked[0] == f"{row['text:hypothesis']}? {row['text:premise']}"
    assert asked[1] == "N/A? N/A"  # content-free in both slots


def test_tables_show_a_suites_own_metric_first_and_no_empty_column(experiment, scorer):
    units, groups = suite_units(experiment), experiment.languages.groups()
    kinds = {s.name: s.kind for s in experiment.evaluate.suites}
    frames = [predicted(units, scorer, s.name) for s in experiment.evaluate.suites]
    results = summarise({"base": measure(frames, ResamplingPlan(groups, kinds, resamples=10))}, groups)
    for suite in experiment.evaluate.suites:
        if suite.kind == "classification":
            suite = suite.model_copy(update={"metric": "accuracy"})
        columns = suite_columns(suite, results, "sum")
        expected = "accuracy" if suite.kind == "classification" else SUITES[suite.kind].metric
        assert columns[0].metric == expected
        text, _ = table(results, columns)
        assert "–" not in text.replace("[–, –]", ""), suite.name
    shown = {c.metric for s in experiment.evaluate.suites if s.name == "mt" for c in suite_columns(s, results, "sum")}
    assert shown == {"bits_per_byte", "source_use"}


@pytest.mark.slow
def test_the_report_says_how_text_was_scored(experiment, scorer, tmp_path):
    units = suite_units(experiment)
    frames = {s.name: predicted(units, scorer, s.name) for s in experiment.evaluate.suites}
    report(experiment, {"base": [frames]}, tmp_path, Console(quiet=True))
    written = (tmp_path / "RESULTS.md").read_text(encoding="utf-8").partition("## written")[2].partition("## text")[0]
    assert "chrF++" in written
    assert "tok:13a" in written
    assert "Off-target rate into jav: not identifiable" in written


def test_raw_and_calibrated_stand_side_by_side_with_what_is_predicted(experiment, scorer):
    units, groups = suite_units(experiment), experiment.languages.groups()
    suite = experiment.evaluate.suites[0]
    frame = predicted(units, scorer, suite.name)
    majority = frame.assign(prompt="none", **{s: [[1.0, 0.0]] * len(frame) for s in SCORES})
    plan = ResamplingPlan(groups, {suite.name: suite.kind}, resamples=10)
    results = summarise({"base": measure(frame, plan), "majority": measure(majority, plan)}, groups)
    lines = [line.strip("| ").split(" | ") for line in bias_table(suite, results).splitlines()]
    assert lines[0] == ["run", "group", "scorer", "f1_weighted", "calibration error", "says bad", "says good"]
    rows = {tuple(line[:3]): [float(x) for x in line[3:]] for line in lines[2:]}
    assert set(rows) == {("majority", g, "sum") for g in ("L1", "L2")} | {
        ("base", g, s) for g in ("L1", "L2") for s in SCORES
    }
    assert rows["majority", "L1", "sum"][2:] == [1.0, 0.0]
    eng = frame[frame["language"] == "eng"]
    for name in SCORES:
        says = np.stack(eng[name].to_list()).argmax(axis=1)
        assert rows["base", "L1", name][2] == pytest.approx((says == 0).mean(), abs=6e-4)
        expected = f1_score(eng["label"], says, average="weighted", zero_division=0.0)
        assert rows["base", "L1", name][0] == pytest.approx(expected, abs=6e-4)
