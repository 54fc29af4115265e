"""Scores in the metadata of a model card, read back by the Hub's own library."""

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from report_material import material
from rich.console import Console

from ialign_ray.evaluation.report.card_scores import add_scores
from ialign_ray.evaluation.report.write import report

TEXT = "---\nbase_model: some/model\nlanguage:\n- jav\n---\n\n# A card\n\nIts text: ꦲꦏ꧀ꦱꦫ.\n"


@pytest.fixture
def scored(experiment_data, tmp_path):
    made = material(experiment_data, tmp_path)
    report(made.experiment, made.runs, tmp_path / "out", Console(quiet=True), made.folders)
    (tmp_path / "README.md").write_text(TEXT, encoding="utf-8")
    return made.experiment, pd.read_parquet(tmp_path / "out" / "results.parquet"), tmp_path / "README.md"


def test_each_score_is_that_of_the_table_with_its_interval(scored):
    experiment, results, card = scored
    run = next(r for r in results["run"] if r not in ("base", "random", "majority", "length", "ngrams"))
    count = add_scores(card, results, experiment, run)
    data = ModelCard.load(card).data
    assert len(data.eval_results) == count > 0
    assert data.base_model == "some/model"
    assert "ꦲꦏ꧀ꦱꦫ" in card.read_text("utf-8")
    for one in data.eval_results:
        own = results[
            (results["run"] == run) & (results["suite"] == one.dataset_name) & (results["metric"] == one.metric_type)
        ]
        rows = own[(own["scope"] == f"language:{one.dataset_config}") & (own["prompt"] == one.metric_args["prompt"])]
        assert one.metric_value in rows["value"].round(6).tolist()
        assert one.metric_args["low"] <= one.metric_args["high"]
        assert one.metric_args["n"] in rows["n"].tolist()


def test_a_run_without_scores_leaves_the_card(scored):
    experiment, results, card = scored
    assert add_scores(card, results, experiment, "another") == 0
    assert card.read_text("utf-8") == TEXT
