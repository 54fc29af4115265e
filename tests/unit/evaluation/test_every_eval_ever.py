"""Results in the exchange format, judged by its own JSON schema, and published results read from it."""

import json
from importlib.resources import files

import jsonschema
import pandas as pd
import pytest
from report_material import material
from rich.console import Console

from ialign_ray.errors import DataError
from ialign_ray.evaluation.report.every_eval_ever import PUBLISHED, read_published
from ialign_ray.evaluation.report.write import report, report_again

QUIET = Console(quiet=True)
SCHEMA = json.loads(files("every_eval_ever.schemas").joinpath("eval.schema.json").read_text("utf-8"))


@pytest.fixture
def shared(experiment_data, tmp_path):
    made = material(experiment_data, tmp_path)
    report(made.experiment, made.runs, tmp_path / "out", QUIET, made.folders)
    report_again([tmp_path / "out"], None, QUIET, share=(tmp_path / "shared", "Our lab"))
    return tmp_path / "shared"


def test_every_model_is_a_file_of_the_schema_with_its_intervals(shared):
    results = pd.read_parquet(shared.parent / "out" / "results.parquet")
    ids = results[["suite", "scope", "prompt", "scorer", "metric"]].agg("/".join, axis=1)
    rows = results.set_index(["run", ids])
    logs = [json.loads(path.read_text("utf-8")) for path in sorted(shared.iterdir())]
    assert len(logs) == len(set(results["run"]) - {"random", "majority", "length", "ngrams"})
    for log in logs:
        jsonschema.validate(log, SCHEMA)
        assert log["source_metadata"]["source_organization_name"] == "Our lab"
        assert str(shared.parent) not in json.dumps(log)  # no path of this machine
        for one in log["evaluation_results"]:
            row = rows.loc[(log["model_info"]["additional_details"]["run"], one["evaluation_result_id"])]
            assert one["score_details"]["score"] == row["value"]
            assert one["score_details"]["uncertainty"]["num_samples"] == row["n"]
    assert any("confidence_interval" in r["score_details"]["uncertainty"] for r in logs[0]["evaluation_results"])


def test_what_is_written_can_be_read_again(shared):
    found = read_published(sorted(shared.iterdir()))
    assert list(found.columns) == list(PUBLISHED)
    assert found["value"].notna().all()
    assert (found["low"].dropna() <= found["high"].dropna()).all()


def test_published_scores_are_shown_next_to_ours(shared, capsys):
    log = {
        "source_metadata": {"source_organization_name": "HELM"},
        "model_info": {"id": "lab/other-model"},
        "evaluation_results": [
            {"evaluation_name": "mood/jav", "metric_config": {"metric_id": "f1"}, "score_details": {"score": 0.73}},
            {"evaluation_name": "mood/L2", "metric_config": {"metric_id": "f1"}, "score_details": {"score": 0.617}},
            {"evaluation_name": "mood/L2", "metric_config": {"metric_id": "wer"}, "score_details": {"score": 0.5}},
        ],
    }
    file = shared / "theirs.json"
    file.write_text(json.dumps(log), encoding="utf-8")
    report_again([shared.parent / "out"], None, Console(width=200), published=[file])
    assert "lab/other-model" in capsys.readouterr().out
    stored = pd.read_csv(shared.parent / "out" / "published.csv")
    page = (shared.parent / "out" / "report.html").read_text(encoding="utf-8")
    beside = page[page.index('id="scores"') : page.index("Published scores")]
    assert beside.count("lab/other-model (HELM)") == 1
    assert "0.617" in beside
    assert stored.loc[0, ["model", "metric", "value", "source"]].tolist() == ["lab/other-model", "f1", 0.73, "HELM"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source_metadata": 3, "evaluation_results": [1]}'])
def test_another_file_is_refused_before_anything_is_made(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    for file in ("x.json", "none.json"):
        with pytest.raises(DataError, match=file):
            read_published([tmp_path / file])
