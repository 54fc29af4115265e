"""Sentences that are no independent units: read from the file, resampled together, shown, refused where alone."""

import numpy as np
import pandas as pd
import pytest
from test_results import GROUPS

from ialign_ray.config import InstructionSuite, PerplexitySuite, TranslationSuite, build_experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.errors import DataError
from ialign_ray.evaluation.report import tables
from ialign_ray.evaluation.results import cells, summary
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.suites.load import CLUSTER, instruction_rows, perplexity_rows, translation_rows
from ialign_ray.evaluation.suites.wrong_source import wrong_sources

ARTICLES = 10


@pytest.fixture
def articles(tmp_path):
    """Forty sentences of ten articles, four in a row; the last sentence has no article."""
    rows = [
        {"id": f"s{k}", "url": f"u{k // 4}" if k < 39 else None, "part": k % 2, "eng": f"sentence {k} of {k // 4}",
         "jav": f"ukara {k}"}
        for k in range(4 * ARTICLES)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "articles.parquet")
    return tmp_path / "articles.parquet"


def texts(path, **changes):
    plain = {"name": "s", "path": str(path), "id": "id", "columns": {"eng": "eng", "jav": "jav"}, "cluster": "url"}
    return PerplexitySuite.model_validate(plain | changes)


def test_the_units_are_the_clusters_and_n_stays_the_sentences():
    """Rows of one article that err together: their s.e. is larger than that of as many independent rows."""
    rng = np.random.default_rng(0)
    number = np.arange(200)
    nats = 100 + rng.normal(0, 5, 50)[number // 4] + rng.normal(0, 5, 200)
    frame = pd.DataFrame({"suite": "s", "language": "jav", "id": [f"s{k}" for k in number]})
    frame = frame.assign(nats=nats, tokens=30, bytes=100)
    grouped = frame.assign(cluster=(number // 4).astype(str))
    plan, widths = cells.ResamplingPlan(GROUPS, {"s": "perplexity"}), []
    for rows in (frame, grouped):
        found = summary.summarise({"r": rows}, GROUPS, kinds={"s": "perplexity"})
        row = found[(found["metric"] == "bits_per_byte") & (found["scope"] == "group:L2")].iloc[0]
        widths.append(row["high"] - row["low"])
        assert row["n"] == 200
    assert row["clusters"] == 50
    # the variance of the mean is 1 + 3 / 2 times that of independent rows
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(2.5), rel=0.2)
    # what was stored before the suite had clusters is resampled in those of the other run
    pairs = summary.compare("a", cells.measure(grouped, plan), "b", cells.measure(frame, plan))
    assert set(pairs["clusters"]) == {50}
    assert (pairs["value"] == 0).all()
    markdown, _ = tables.table(found, [tables.Column("bits", "s", "group:L2", "bits_per_byte", "likelihood")])
    assert "n=200 in 50 clusters" in markdown


def test_a_row_without_a_cluster_is_a_unit_of_its_own(articles):
    rows = perplexity_rows(texts(articles), ".")
    assert rows[CLUSTER].isna().sum() == 2
    frame = rows.assign(nats=1.0, tokens=1, bytes=1)
    measured = cells.measure(frame, cells.ResamplingPlan(GROUPS, {"s": "perplexity"}, resamples=20))
    assert {m.units for m in measured.measures.values()} == {ARTICLES + 1}


def test_several_columns_make_a_cluster(articles):
    assert perplexity_rows(texts(articles, cluster=["url", "part"]), ".")[CLUSTER].nunique() == 2 * ARTICLES


def test_a_suite_of_one_article_is_refused_and_named(articles):
    with pytest.raises(DataError, match=r"suite 's': its 4 sentences have one value of cluster \(url: 'u3'\)"):
        perplexity_rows(texts(articles, where={"url": "u3"}), ".")
    with pytest.raises(DataError, match="'nope'"):
        perplexity_rows(texts(articles, cluster="nope"), ".")
    alone = perplexity_rows(texts(articles, cluster="nope", cluster_optional=True), ".")
    assert CLUSTER not in alone.columns


def test_bundled_suites_name_their_clusters_and_read_files_without_them():
    found = {name: expand_suites([name])[0] for name in bundled_names()}
    named = {name: suite["cluster"] for name, suite in found.items() if "cluster" in suite}
    assert named == {
        "flores-perplexity": "url", "flores-retrieval": "url", "flores-translation": "url", "sib200-topic": "url",
        "xnli": "premise_en", "indonli": "premise", "belebele": "link",
        "masakhanews": "url", "loraxbench-nli": "Premise ID",
    }  # fmt: skip
    assert all(found[name]["cluster_optional"] for name in named)
    assert expand_suites([{"use": "xnli", "cluster": "genre"}])[0]["cluster_optional"] is False


def test_instructions_of_one_source_text_can_be_one_unit(tmp_path):
    rows = [{"id": k, "inputs": f"q{k}", "targets": "" if k == 1 else f"a{k}", "text": k // 3} for k in range(9)]
    pd.DataFrame(rows).to_json(tmp_path / "old.jsonl", orient="records", lines=True)
    suite = InstructionSuite.model_validate({"name": "old", "path": str(tmp_path / "old.jsonl"), "cluster": "text"})
    assert instruction_rows(suite, ".").groupby(CLUSTER).size().tolist() == [2, 3, 3]


def test_clusters_decide_no_prediction():
    rows = pd.DataFrame({"id": ["a", "b"], "target": ["x", "y"]})
    assert row_keys(rows) == row_keys(rows.assign(**{CLUSTER: ["u", "v"]}))


def test_the_wrong_source_is_far_alike_in_length_and_never_of_the_same_article(articles, experiment_data):
    frame = pd.read_parquet(articles)
    suite = TranslationSuite.model_validate(texts(articles).model_dump(exclude={"kind"}) | {"pivot": "eng"})
    rows = translation_rows(suite, build_experiment(experiment_data, "x"), suite.prompts[0])
    of_prompt = {row.prompt: row for row in rows.itertuples()}
    article = frame.set_index("id")["url"]
    for row in rows.itertuples():
        other = of_prompt[row.mismatched]
        assert article[row.id] is None or article[row.id] != article[other.id]
        assert abs(int(row.id[1:]) - int(other.id[1:])) >= 10
        assert abs(len(row.source) - len(other.source)) <= 2


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 300])
def test_wrong_sources_of_any_number_of_rows(rows):
    found = wrong_sources([f"text {k}" for k in range(rows)], [None] * rows)
    assert (rows == 1) or (found != np.arange(rows)).all()
    assert np.bincount(found, minlength=rows).max() <= 3


def test_equal_sources_are_not_wrong_for_each_other():
    texts = ["same", "same", "same", "same", "other", "third"]
    found = wrong_sources(texts, [None] * 6)
    assert all(texts[place] != text for place, text in zip(found, texts))
