"""The report is made of what lies on disk, holds no foreign markup, and can be made again without the data."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_material import material
from rich.console import Console

import ialign_ray.evaluation.report.inputs
import ialign_ray.evaluation.results.fitted_baselines
from ialign_ray.config import dump_yaml, override
from ialign_ray.errors import DataError
from ialign_ray.evaluation.report.inputs import gather, joined, load_material
from ialign_ray.evaluation.report.page import percent
from ialign_ray.evaluation.report.page_history import cleaning_drops, differences, source_shares
from ialign_ray.evaluation.report.write import report, report_again
from ialign_ray.evaluation.scoring.harness import report_tasks

QUIET = Console(quiet=True)


@pytest.fixture
def made(experiment_data, tmp_path):
    m = material(experiment_data, tmp_path)
    folder = tmp_path / "out"
    report(m.experiment, m.runs, folder, QUIET, m.folders)
    return folder


def tags(page):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))
    parser.feed(page)
    return found


def test_texts_cannot_break_out(made):
    page = (made / "report.html").read_text("utf-8")
    assert "&lt;script&gt;window.broken" in page  # the worst examples show it
    assert "&lt;b&gt;arm" in page
    found = tags(page)
    assert not {"img", "iframe", "link", "object", "b>arm"} & {tag for tag, _ in found}
    scripts = [attrs for tag, attrs in found if tag == "script"]
    assert sum("type" not in attrs for attrs in scripts) == 1  # ours; the others are data
    assert not [v for _, attrs in found for n, v in attrs.items() if n in ("src", "href") and v[0] != "#"]
    assert re.search(r"default-src 'none'.*script-src 'sha256-[\w+/=]+'", page)
    assert page.isprintable() or "\x1b" not in page


def test_everything_is_told(made):
    page = (made / "report.html").read_text("utf-8")
    for words in (
        "Retention:",
        "Backward transfer",
        "McNemar",
        "leaked 2",
        "beware",
        "90.0%",
        "n = ",
        "evaluate.retention",
    ):
        assert words in page
    assert len(re.findall(r"data-chart>", page)) >= 3
    markdown = (made / "RESULTS.md").read_text("utf-8")
    assert "## Verdict" in markdown
    assert "## Transfer" in markdown
    for name in ("results", "comparisons", "languages", "retention", "mcnemar", "overview"):
        csv, parquet = pd.read_csv(made / f"{name}.csv"), pd.read_parquet(made / f"{name}.parquet")
        assert len(csv) == len(parquet) > 0
    results = pd.read_parquet(made / "results.parquet")
    spread = results[(results["prompt"] == "all") & (results["run"] == "base")]
    assert set(spread["prompts"]) == {2}


def test_shares_of_the_sources_are_those_of_the_record(experiment_data, tmp_path):
    m = material(experiment_data, tmp_path)
    rows = source_shares(m.folders)
    assert [(r["run"], r["source"], r["drawn"], r["share"], r["loss_share"]) for r in rows] == [
        ("<b>arm", "mt", 1500, 0.75, 0.9),
        ("<b>arm", "replay", 500, 0.25, 0.1),
    ]
    record = m.folders["<b>arm"][0] / "record.json"
    record.write_text('{"drawn": {"by_source": {"mt": 2}}}')  # a run of before shares of the loss were recorded
    assert [percent(r["loss_share"]) for r in source_shares(m.folders)] == ["–"]
    record.write_text("{}")
    assert source_shares(m.folders) == []


def test_it_is_made_again_when_runs_and_data_are_gone(made, tmp_path):
    before = (made / "RESULTS.md").read_text("utf-8")
    (made / "report.html").unlink()
    for path in [*tmp_path.glob("run-*/*"), tmp_path / "suite.parquet"]:
        path.unlink()
    page = report_again([made], None, QUIET).read_text("utf-8")
    assert "No examples of mood are shown" in page
    assert "No baselines of mood" not in page  # they are kept
    results = pd.read_parquet(made / "results.parquet")
    assert {"random", "majority", "length"} <= set(results["run"])
    assert "contain no curves" in page
    assert "<b>arm" in before
    retention = re.findall(r"Retention: .*", before)
    assert retention
    assert retention == re.findall(r"Retention: .*", (made / "RESULTS.md").read_text("utf-8"))


def test_seeds_that_were_trained_with_different_settings_are_refused(experiment_data, tmp_path):
    m = material(experiment_data, tmp_path)
    for folder, steps, seed in zip(m.folders["<b>arm"], (54, 54), (0, 1)):
        text = dump_yaml(override(m.experiment, {"train.steps": steps, "train.seed": seed}))
        (folder / "experiment.yaml").write_text(text, "utf-8")
    gather(m.experiment, m.runs, tmp_path / "out", m.folders)
    changed = override(m.experiment, {"train.steps": 30, "train.seed": 1})
    (m.folders["<b>arm"][1] / "experiment.yaml").write_text(dump_yaml(changed), "utf-8")
    with pytest.raises(DataError, match=r"seeds of <b>arm differ in train.steps: 54 in run-2-0 and 30 in run-2-1"):
        gather(m.experiment, m.runs, tmp_path / "out", m.folders)


def test_torn_or_missing_material_is_refused(made, tmp_path):
    with pytest.raises(DataError, match="holds no `report` folder"):
        report_again([tmp_path], None, QUIET)
    next((made / "report").glob("*.parquet")).write_bytes(b"torn")
    with pytest.raises(DataError, match="torn"):
        report_again([made], None, QUIET)


def test_several_comparisons_are_one_report_over_the_same_base(made):
    first = load_material(made)
    runs = dict(first.runs)
    runs["<b>arm"] = runs["control"]
    both = joined({"one": first, "dir/two": type(first)(first.experiment, runs)})
    assert list(both.runs) == ["base", "control", "<b>arm", "two:<b>arm"]
    other = type(first)(first.experiment, {"base": runs["control"]})
    with pytest.raises(DataError, match="different predictions of base"):
        joined({"one": first, "two": other})


def test_baselines_are_fitted_once_for_the_same_rows(experiment_data, tmp_path, monkeypatch):
    m = material(experiment_data, tmp_path)
    fitted = []
    original = ialign_ray.evaluation.results.fitted_baselines.baseline_predictions
    monkeypatch.setattr(
        ialign_ray.evaluation.results.fitted_baselines,
        "baseline_predictions",
        lambda *a: fitted.append(1) or original(*a),
    )
    first = gather(m.experiment, m.runs, tmp_path / "out")
    with monkeypatch.context() as patch:  # of a report that is about to be replaced nothing else is read
        patch.setattr(ialign_ray.evaluation.report.inputs, "load_experiment", None)
        again = gather(m.experiment, m.runs, tmp_path / "out")
    assert len(fitted) == 1
    for name, frame in first.baselines["mood"].predictions.items():
        kept = again.baselines["mood"].predictions[name]
        assert kept["id"].tolist() == frame["id"].tolist()
        assert np.array_equal(np.stack(kept["sum"]), np.stack(frame["sum"]))
    path = tmp_path / "suite.parquet"
    rows = pd.read_parquet(path)
    rows.loc[0, "jav"] += " lagi"
    rows.to_parquet(path)
    gather(m.experiment, m.runs, tmp_path / "out")
    assert len(fitted) == 2


@pytest.mark.slow
def test_a_report_needs_no_torch(made):
    """It takes seconds to import, and a laptop for reading need not have it."""
    code = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from ialign_ray.evaluation.report.write import report_again\n"
        f"report_again([Path({str(made)!r})], None, Console(quiet=True))\n"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.slow
def test_where_runs_differ_and_what_cleaning_dropped(experiment_data, tmp_path):
    m = material(experiment_data, tmp_path)
    for seed, folder in enumerate(m.folders["<b>arm"]):
        own = override(m.experiment, {"replay.ratio": 0.75, "train.seed": seed, "storage.runs": str(tmp_path / "runs")})
        (folder / "experiment.yaml").write_text(dump_yaml(own), "utf-8")
        (folder / "record.json").write_text('{"data": {"corpora": {"c": {"read": 9, "kept": 7}}}}', "utf-8")
    for folder in m.folders["control"]:
        folder.mkdir()
        (folder / "experiment.yaml").write_text(dump_yaml(override(m.experiment, {"replay.ratio": 1})), "utf-8")
    names, found = differences(m.folders)
    assert names == ["control", "<b>arm"]
    by_field = {row["field"]: row["values"] for row in found}
    assert by_field.keys() == {"replay.ratio", "train.seed"}
    assert by_field["replay.ratio"] == {"control": "1.0", "<b>arm": "0.75"}
    assert by_field["train.seed"]["<b>arm"] == "0, 1"

    assert cleaning_drops(m.folders) == []  # nothing was built
    built = tmp_path / "runs" / "corpora" / m.experiment.name
    counts = {
        "rows_in": 9,
        "rows_out": 7,
        "dropped": {"length": {"jav": 3}},
        "dropped_rows": {"length": 2, "script": 0},
    }
    (built / "v1").mkdir(parents=True)
    (built / "latest").write_text("v1\n", "utf-8")
    (built / "v1" / "manifest.json").write_text("{}", "utf-8")
    for rows, told in ((9, True), (8, False)):  # another corpus than the run's tells nothing of it
        corpora = {"c": counts | {"rows_in": rows, "changed": {"characters": {"jav": 1}, "script": {}}}}
        (built / "v1" / "counts.json").write_text(json.dumps({"version": "v1", "corpora": corpora}), "utf-8")
        drops = cleaning_drops(m.folders)
        assert bool(drops) == told
        if told:
            assert drops[0]["steps"] == {
                "length": {"rows": 2, "dropped": 3, "changed": 0},
                "characters": {"rows": 0, "dropped": 0, "changed": 1},
            }
    (built / "v1" / "counts.json").write_text(
        json.dumps({"version": "v1", "corpora": {"c": corpora["c"] | {"rows_in": 9}}})
    )
    tasks = pd.DataFrame(
        [
            {
                "run": "base",
                "task": "xcopa<i>",
                "metric": "acc",
                "filter": "none",
                "value": 0.5,
                "low": 0.4,
                "high": 0.6,
                "n": 9,
            }
        ]
    )
    report_tasks(tasks, tmp_path / "out", QUIET)
    report(m.experiment, m.runs, tmp_path / "out", QUIET, m.folders)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for words in ("Cleaning of c", "9 rows read, 7 kept", "<code>replay.ratio</code>", "xcopa&lt;i&gt;"):
        assert words in page
    elsewhere = report_again([tmp_path / "out"], tmp_path / "elsewhere", QUIET)
    assert "xcopa&lt;i&gt;" in elsewhere.read_text("utf-8")
