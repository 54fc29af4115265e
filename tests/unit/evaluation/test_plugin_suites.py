"""A metric and a kind of suite of an installed package: one declaration each, and they are as the built-in ones."""

import gc
import sys

import numpy as np
import pytest
from report_material import material
from rich.console import Console

from ialign_ray.config import build_experiment, dump_yaml, load_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.metrics.registry import METRICS, lower_is_better
from ialign_ray.evaluation.report.ablation import AblationRow, write_ablation
from ialign_ray.evaluation.report.page import group_scores
from ialign_ray.evaluation.report.page_examples import suite_texts, worst_examples
from ialign_ray.evaluation.report.tables import suite_columns
from ialign_ray.evaluation.results.analysis import analyse
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, suite_units
from ialign_ray.plugins import Extensible

QUIET = Console(quiet=True)
CODE = '''
from typing import Literal

from ialign_ray.config import SuiteSource
from ialign_ray.evaluation.metrics.classification import gold, predict, scores
from ialign_ray.evaluation.metrics.registry import Metric
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.evaluation.scoring.suite_kinds import SuiteKind
from ialign_ray.evaluation.suites.load import perplexity_rows


def wrong(cell):
    truth = cell.shared(gold)
    return cell.mean(1 - predict(cell.shared(scores))[range(len(truth)), truth])


ERRORS = Metric("errors", wrong, ("classification",), higher_is_better=False)
LETTERS = Metric("letters", lambda cell: cell.mean(cell.rows["letters"]), ("lengths",))
BROKEN = Metric("broken", lambda cell: cell.rows["nothing"], ("classification",))
SHORT = Metric("short", lambda cell: [1.0], ("classification",))


class LengthSuite(SuiteSource):
    """Lengths of texts."""

    kind: Literal["lengths"] = "lengths"
    above: int = 0


class LengthUnit(Unit):
    def predict(self, scorer, rows):
        return rows[["suite", "language", "id"]].assign(letters=rows["length"] * 1.0)


def units(suite, experiment):
    rows = perplexity_rows(suite, experiment.storage.data)
    yield LengthUnit(suite.name, "default", rows.assign(length=rows["target"].str.len() - suite.above))


def cost(rows, scorer):
    return -rows["letters"].to_numpy()


LENGTHS = SuiteKind(
    LengthSuite, units, ("letters",), ("letters",), cost=cost, proof=0,
    texts=lambda suite, experiment: perplexity_rows(suite, experiment.storage.data),
)
NOT_A_SUITE = SuiteKind(str, units, (), ("letters",))
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs one package with the given entry points, until the end of the test."""

    def forget():
        for table in [found for found in gc.get_objects() if type(found) is Extensible]:
            table.__dict__.pop("_plugins", None)

    def make(groups, code=CODE):
        folder = tmp_path / "installed"
        info = folder / "kit-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kit\nVersion: 1.0\n")
        lines = (
            f"[{group}]\n" + "".join(f"{n} = kit_code:{v}\n" for n, v in of.items()) for group, of in groups.items()
        )
        (info / "entry_points.txt").write_text("\n".join(lines))
        (folder / "kit_code.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        forget()

    yield make
    sys.modules.pop("kit_code", None)
    monkeypatch.undo()
    forget()


def lengths(**changes):
    texts = {"path": "suite.parquet", "id": "sid", "columns": {"eng": "eng", "ind": "ind", "jav": "jav"}}
    return texts | {"kind": "lengths", "name": "long"} | changes


def test_a_metric_of_a_package_is_in_every_table(install, experiment_data, tmp_path):
    install({"ialign.metrics": {"error_rate": "ERRORS"}})
    experiment_data["evaluate"]["suites"][0]["metric"] = "error_rate"
    experiment_data["evaluate"]["retention"] = {"metric": "error_rate", "group": "L1"}
    m = material(experiment_data, tmp_path)
    analysis = analyse(m.experiment, m.runs, {})
    results = analysis.results
    wide = results.pivot_table(index=["run", "prompt", "scorer", "scope"], columns="metric", values="value")
    assert np.allclose(wide["error_rate"], 1 - wide["accuracy"])
    bounds = results.pivot_table(index=["run", "prompt", "scorer", "scope"], columns="metric", values=["low", "high"])
    # an accuracy is held to what it can be
    assert np.allclose(bounds["low", "error_rate"].clip(0), 1 - bounds["high", "accuracy"])
    columns = suite_columns(m.experiment.evaluate.suites[0], results, "sum")
    assert (columns[0].metric, columns[0].title) == ("error_rate", "mood L1 errors")  # the suite's own comes first
    assert {"f1_weighted", "auc_length_fixed"} < {column.metric for column in columns}
    assert all("error_rate on L1 of mood" in kept.what for kept in analysis.retention)
    assert lower_is_better("error_rate")


def test_what_falls_is_bold_where_the_declaration_says_so(install, experiment_data, tmp_path):
    install({"ialign.metrics": {"error_rate": "ERRORS"}})
    experiment_data["evaluate"]["suites"][0]["also"] = ["error_rate"]
    m = material(experiment_data, tmp_path)
    better = [{"mood": frame.assign(**{s: [10 * x for x in np.eye(2)[frame["label"]]] for s in ("sum",)})}
              for frame in (seed["mood"] for seed in m.runs["control"])]  # fmt: skip
    rows = [AblationRow("plain", None, m.runs["control"][1:] * 2), AblationRow("right", "plain", better[1:] * 2)]
    text = write_ablation(m.experiment, rows, tmp_path / "out", QUIET).read_text("utf-8")
    head, line = (next(part for part in text.splitlines() if part.startswith(start)).split(" | ")
                  for start in ("| setting | control | ", "| right | plain | "))  # fmt: skip
    column = next(k for k, title in enumerate(head) if title.startswith("errors"))
    assert line[column].startswith("**-")


def test_a_metric_that_fails_is_reported_and_left_out(install, experiment_data, tmp_path, caplog):
    install({"ialign.metrics": {"broken": "BROKEN", "short": "SHORT"}})
    experiment_data["evaluate"]["suites"][0]["also"] = ["broken", "short"]
    m = material(experiment_data, tmp_path)
    results = analyse(m.experiment, m.runs, {}).results
    assert {"f1_weighted", "accuracy"} <= set(results["metric"])
    assert not {"broken", "short"} & set(results["metric"])
    found = [record.message for record in caplog.records]
    assert sorted(message.split("'")[1] for message in found) == ["broken", "short"]  # each once
    assert all("classification" in message and "\n" not in message for message in found)


def test_a_kind_of_a_package_is_scored_measured_judged_and_shown(install, experiment_data, tmp_path):
    install({"ialign.suites": {"lengths": "LENGTHS"}, "ialign.metrics": {"letters": "LETTERS"}})
    experiment_data["evaluate"] |= {"suites": [lengths(above=1)], "seed_spread": 0}
    experiment = build_experiment(experiment_data, "test")
    (suite,) = experiment.evaluate.suites
    assert (suite.kind, suite.above, suite.spoken) == ("lengths", 1, ["eng", "ind", "jav"])
    (tmp_path / "again.yaml").write_text(dump_yaml(experiment), "utf-8")
    assert load_experiment(tmp_path / "again.yaml") == experiment
    assert rules_of(experiment).better_on == {"long"}
    (unit,) = suite_units(experiment)
    assert unit.key[0] == "LengthUnit"
    frame = unit.finish(unit.predict(None, unit.rows))
    runs = {"base": [{"long": frame}], "control": [{"long": frame}]}
    runs["arm"] = [{"long": frame.assign(letters=frame["letters"] + np.where(frame["language"] == "eng", -9, 9))}]
    analysis = analyse(experiment, runs, {})
    assert any(s.topic == "gain" and s.outcome == "gained" and "(long)" in s.text for s in analysis.statements)
    results = analysis.results
    row = results[(results["run"] == "base") & (results["scope"] == "language:jav") & (results["prompt"] == "all")]
    assert row["value"].tolist() == pytest.approx([frame[frame["language"] == "jav"]["letters"].mean()])
    assert (row["kind"].tolist(), row["metric"].tolist()) == (["lengths"], ["letters"])
    assert [column.title for column in suite_columns(suite, results, "sum")] == ["long L1 letters", "long L2 letters"]
    assert [shown["title"] for shown in group_scores(experiment, results)] == ["letters"]
    texts, notes = suite_texts(experiment)
    worst = worst_examples(experiment, runs["arm"], runs["base"], texts)["long"]
    assert not notes
    assert {example.language for example in worst} == {"eng"}
    assert all(example.texts["target"] for example in worst)


@pytest.mark.parametrize(
    ("groups", "change", "parts"),
    [
        ({}, {}, ["evaluate.suites.0.kind is 'lengths', but it is not known; use one of classification"]),
        ({"lengths": "LENGTHS"}, {"kind": "length"}, ["evaluate.suites.0.kind is 'length'", ", lengths"]),
        ({"lengths": "LENGTHS"}, {"above": "x"}, ["evaluate.suites.0.above is 'x'"]),
        ({"lengths": "LENGTHS"}, {"columns": {}}, ["evaluate.suites.0: no language has a column"]),
        ({"lengths": "MISSING"}, {}, ["evaluate.suites.0.kind is 'lengths', but plug-in kit", "ialign.suites"]),
        ({"lengths": "NOT_A_SUITE"}, {}, ["evaluate.suites.0.kind is 'lengths', but its plug-in has no `config`"]),
    ],
)
def test_kinds_that_are_wrong(install, experiment_data, groups, change, parts):
    install({"ialign.suites": groups})
    experiment_data["evaluate"]["suites"] = [lengths(**change)]
    with pytest.raises(ConfigError) as caught:
        build_experiment(experiment_data, "test")
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_built_in_kinds_import_no_package(install, experiment_data):
    install({"ialign.suites": {"lengths": "LENGTHS"}}, "raise RuntimeError('loaded')")
    build_experiment(experiment_data, "test")
    assert "kit_code" not in sys.modules
    assert "lengths" not in SUITES.builtin


def test_a_metric_is_imported_only_for_a_suite_that_names_it(install, experiment_data, tmp_path):
    install({"ialign.metrics": {"error_rate": "ERRORS", "broken": "BROKEN"}}, CODE + "\nimport kit_imported\n")
    m = material(experiment_data, tmp_path)
    results = analyse(m.experiment, m.runs, {}).results
    suite_columns(m.experiment.evaluate.suites[0], results, "sum")
    assert "kit_code" not in sys.modules
    assert "error_rate" not in set(results["metric"])
    experiment_data["evaluate"]["suites"][0]["also"] = ["error_rate"]
    with pytest.raises(ConfigError, match="kit_imported"):
        build_experiment(experiment_data, "test")


@pytest.mark.parametrize(
    ("also", "part"), [(["nope"], "also is 'nope'"), (["comet"], "also is 'comet'"), ("x", "also")]
)
def test_further_metrics_that_are_wrong(experiment_data, also, part):
    experiment_data["evaluate"]["suites"][0]["also"] = also
    with pytest.raises(ConfigError, match=part):
        build_experiment(experiment_data, "test")


@pytest.mark.parametrize(
    ("metric", "part"),
    [
        ("letters", "does not measure suites of kind 'classification'"),
        ("lettres", "is not known; use one of f1_weighted"),
    ],
)
def test_a_suites_metric_must_measure_its_kind(install, experiment_data, metric, part):
    install({"ialign.metrics": {"letters": "LETTERS"}})
    assert "letters" in METRICS
    experiment_data["evaluate"]["suites"][0]["metric"] = metric
    with pytest.raises(ConfigError) as caught:
        build_experiment(experiment_data, "test")
    assert f"evaluate.suites.0.metric: metric is '{metric}'" in str(caught.value)
    assert part in str(caught.value)
