"""What the base was trained on: declared suites in every table and export, and hints of membership."""

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from report_material import material
from rich.console import Console
from sklearn.metrics import roc_auc_score

from ialign_ray.config import build_experiment, dump_yaml, load_experiment, override
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.report.card_scores import add_scores
from ialign_ray.evaluation.report.declared import MARK, declared, declared_notes
from ialign_ray.evaluation.report.write import report, report_again
from ialign_ray.evaluation.scoring.membership import (
    auc_interval,
    fresh_sentences,
    lowest_mean,
    membership_table,
    membership_units,
    read_membership,
    write_membership,
)
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.subjects import base_subject, open_scorer
from ialign_ray.workflows.evaluate import judge

QUIET = Console(quiet=True)
SOURCE = "Ouyang 2031, table 4 <b>"


@pytest.mark.parametrize(
    ("said", "suite", "found"),
    [
        ("mood", {}, True),
        ("MOOD", {}, True),
        ("suite", {}, True),  # the file's name
        ("lab/moods", {"about": {"licence": "x", "texts": "native", "citation": "y", "hub": "lab/moods@main"}}, True),
        ("moods", {"about": {"licence": "x", "texts": "native", "citation": "y", "hub": "lab/moods"}}, True),
        ("moo", {}, False),
        ("others", {}, False),
    ],
)
def test_a_declaration_names_a_suite_its_file_or_its_data_set(experiment_data, said, suite, found):
    experiment_data["evaluate"]["suites"][0] |= suite
    experiment_data["model"]["trained_on"] = [said]
    experiment = build_experiment(experiment_data, "test")
    assert bool(declared(experiment)) is found
    (note,) = declared_notes(experiment)
    assert said in note


@pytest.mark.parametrize("wrong", ["mood", [3], [{"source": "x"}], [""], [{"suite": "m", "sauce": "x"}]])
def test_declarations_that_are_wrong(experiment_data, wrong):
    experiment_data["model"]["trained_on"] = wrong
    with pytest.raises(ConfigError, match="trained_on"):
        build_experiment(experiment_data, "test")


def test_a_declaration_changes_no_key(experiment_data, tmp_path):
    plain = build_experiment(experiment_data, "test")
    assert "trained_on" not in dump_yaml(plain)  # files and hashes of earlier experiments stay as they are
    experiment_data["model"]["trained_on"] = [{"suite": "mood", "source": SOURCE}]
    said = build_experiment(experiment_data, "test")
    assert base_subject(said).key == base_subject(plain).key
    (tmp_path / "again.yaml").write_text(dump_yaml(said), "utf-8")
    assert load_experiment(tmp_path / "again.yaml") == said


@pytest.mark.slow
def test_declared_suites_are_marked_in_every_table_and_export(experiment_data, tmp_path, capsys):
    experiment_data["model"]["trained_on"] = [{"suite": "mood", "source": SOURCE}, "elsewhere"]
    made = material(experiment_data, tmp_path)
    out = tmp_path / "out"
    statements = report(made.experiment, made.runs, out, Console(width=250), made.folders)
    assert f"mood L2 F1 {MARK}" in " ".join(capsys.readouterr().out.split())
    assert [s.text for s in statements if SOURCE in s.text]
    text = (out / "RESULTS.md").read_text("utf-8")
    assert f"F1 {MARK}" in text
    assert SOURCE in text
    assert "elsewhere" in text
    page = (out / "report.html").read_text("utf-8")
    assert page.count(f">{MARK}</abbr>") >= 3
    assert SOURCE not in page  # escaped
    assert "Ouyang 2031, table 4 &lt;b&gt;" in page
    assert pd.read_csv(out / "results.csv")["trained_on"].all()
    report_again([out], None, QUIET, share=(tmp_path / "shared", "Our lab"))
    schema = json.loads(files("every_eval_ever.schemas").joinpath("eval.schema.json").read_text("utf-8"))
    for path in (tmp_path / "shared").iterdir():
        log = json.loads(path.read_text("utf-8"))
        jsonschema.validate(log, schema)
        assert "elsewhere" in log["model_info"]["additional_details"]["declared_training_data"]
        assert all(SOURCE in r["score_details"]["details"]["contamination"] for r in log["evaluation_results"])
    card = tmp_path / "README.md"
    card.write_text("---\nlanguage:\n- jav\n---\n", "utf-8")
    add_scores(card, pd.read_parquet(out / "results.parquet"), made.experiment, "control")
    results = ModelCard.load(card).data.eval_results
    assert results
    assert all(one.dataset_name == f"mood {MARK}" and SOURCE in one.metric_args["trained_on"] for one in results)


@pytest.mark.slow
def test_without_a_declaration_nothing_is_marked(experiment_data, tmp_path):
    made = material(experiment_data, tmp_path)
    report(made.experiment, made.runs, tmp_path / "out", QUIET, made.folders)
    assert MARK not in (tmp_path / "out" / "RESULTS.md").read_text("utf-8")
    assert "trained_on" not in pd.read_csv(tmp_path / "out" / "results.csv")


@pytest.mark.parametrize(
    ("values", "k", "mean"), [([-1, -2, -3, -4, -5], 0.4, -4.5), ([-1, -9], 0.2, -9), ([-3], 1, -3), ([], 0.2, np.nan)]
)
def test_the_lowest_share_of_tokens_is_averaged(values, k, mean):
    assert lowest_mean(np.array(values, float), k) == pytest.approx(mean, nan_ok=True)


def test_auc_is_that_of_scikit_learn_and_its_interval_covers():
    rng = np.random.default_rng(0)
    truth = 0.7602  # of two normals one apart: Phi(1 / sqrt 2)
    covered = []
    for _ in range(400):
        one, two = rng.normal(1, 1, 60), rng.normal(0, 1, 24)
        value, low, high = auc_interval(one, two)
        covered.append(low <= truth <= high)
    assert value == pytest.approx(roc_auc_score([1] * 60 + [0] * 24, [*one, *two]))
    assert 0.93 <= np.mean(covered) <= 0.985
    assert auc_interval(np.ones(20), np.ones(20))[0] == 0.5
    assert np.isnan(auc_interval(np.ones(9), np.ones(20))[1])
    assert np.isnan(auc_interval(np.ones(0), np.ones(20))[0])


def test_our_sentences_are_distinct_and_of_each_language():
    found = fresh_sentences(None)
    assert set(found) >= {"eng", "ind"}
    assert all(len(set(texts)) == len(texts) >= 20 for texts in found.values())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sentences: {jav: [a, b]}", "2 sentences of jav"),
        ("sentences: []", "no `sentences`"),
        ("sentences: {jav: text}", "no `sentences`"),
        ("- a", "no `sentences`"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
        (f"sentences: {{nonsense: {[f's {k}' for k in range(12)]}}}", "nonsense"),
    ],
)
def test_files_of_fresh_sentences_that_are_wrong(tmp_path, text, part):
    if text is not None:
        (tmp_path / "fresh.yaml").write_text(text)
    with pytest.raises(ConfigError, match=part) as caught:
        fresh_sentences(str(tmp_path / "fresh.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"k": 0}, {"k": 2}, {"tokens": 1}, "yes", {"baseline": "x"}])
def test_settings_of_membership_that_are_wrong(experiment_data, given):
    experiment_data["evaluate"]["membership"] = given
    with pytest.raises(ConfigError, match="membership"):
        build_experiment(experiment_data, "test")


def asked(experiment_data, **settings):
    experiment_data["evaluate"]["membership"] = settings or True
    columns = {"eng": "eng", "ind": "ind", "jav": "jav"}
    texts = {"path": "suite.parquet", "id": "sid", "columns": columns}
    experiment_data["evaluate"]["suites"] += [
        texts | {"kind": "translation", "name": "mt", "pivot": "eng"},
        {"kind": "instructions", "name": "old", "path": "old.jsonl", "limit": 4},
    ]
    return build_experiment(experiment_data, "test")


def test_suites_are_compared_with_sentences_of_their_language(experiment_data):
    experiment = asked(experiment_data)
    units = membership_units(experiment, suite_units(experiment))
    assert [unit.suite for unit in units] == ["mood", "mt"]  # instructions have no language
    for unit in units:
        assert set(unit.rows["language"]) == {"eng", "ind"}
        assert set(unit.rows[unit.rows["fresh"]]["text"]) == {
            t for c in ("eng", "ind") for t in fresh_sentences(None)[c]
        }
    assert not units[1].rows.duplicated(["language", "text"]).any()


class Reader:
    """A model that knows some texts by heart."""

    def __init__(self, known):
        self.known = known

    def token_log_probs(self, texts, most):
        return [np.full(5, -0.1 if text in self.known else -3.0) - 0.01 * np.arange(5) for text in texts]


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 0.99, 1.0), (0.0, 0.5, 0.5), (0.5, 0.7, 0.8)])
def test_texts_that_are_known_by_heart_stand_out(experiment_data, share, low, high):
    experiment = asked(experiment_data)
    unit = membership_units(experiment, suite_units(experiment))[0]
    texts = unit.rows[~unit.rows["fresh"] & (unit.rows["language"] == "eng")]["text"].tolist()
    frame = unit.predict(Reader(texts[: int(len(texts) * share)]), unit.rows)
    row = membership_table({"mood": frame}).set_index("language").loc["eng"]
    assert low <= row["auc"] <= high
    assert (row["n"], row["fresh"]) == (len(texts), 24)


@pytest.mark.slow
def test_hints_are_stored_shown_and_removed(experiment_data, tmp_path, capsys):
    made = material(experiment_data | {"evaluate": experiment_data["evaluate"] | {"membership": True}}, tmp_path)
    experiment = made.experiment
    units = membership_units(experiment, suite_units(experiment))
    for _ in range(2):  # the second reads what was stored
        (frames,) = predict_models(experiment, [base_subject(experiment)], QUIET, units)
    table = membership_table(frames)
    assert set(table["language"]) == {"eng", "ind"}
    out = tmp_path / "out"
    write_membership(table, out)
    report(experiment, made.runs, out, Console(width=200), made.folders)
    assert "fresh sentences" in capsys.readouterr().out
    assert "Membership hints" in (out / "RESULTS.md").read_text("utf-8")
    assert "Membership hints" in (out / "report.html").read_text("utf-8")
    assert len(read_membership(out)) == 2
    write_membership(None, out)
    report_again([out], None, QUIET)
    assert "Membership hints" not in (out / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_an_evaluation_writes_hints_of_the_base_and_removes_old_ones(experiment_data, tmp_path):
    experiment = asked(experiment_data)
    out = tmp_path / "out"
    judge(experiment, {"base": [base_subject(experiment)]}, out, QUIET)
    assert set(read_membership(out)["suite"]) == {"mood", "mt"}
    plain = override(experiment, {"evaluate.membership": False})
    judge(plain, {"base": [base_subject(plain)]}, out, QUIET)
    assert not (out / "membership.csv").exists()


def test_scores_of_tokens_sum_to_the_likelihood_of_the_text(experiment_data):
    experiment = build_experiment(experiment_data, "test")
    scorer = open_scorer(experiment, None)
    texts = ["The weather is good.", "Cuaca hari ini baik sekali."]
    nats, tokens = scorer.free_nats(texts)
    found = scorer.token_log_probs(texts, 10_000)
    assert [len(each) for each in found] == tokens.tolist()
    assert [-each.sum() for each in found] == pytest.approx(nats.tolist(), abs=1e-6)
    assert [len(each) for each in scorer.token_log_probs(texts, 3)] == [3, 3]


def test_an_encoder_decoder_is_refused(experiment_data):
    scorer = open_scorer(build_experiment(experiment_data, "test"), None)
    scorer.encoder = type("Encoder", (), {"seq2seq": True})()
    with pytest.raises(ConfigError, match=r"evaluate\.membership"):
        scorer.token_log_probs(["a"], 8)
