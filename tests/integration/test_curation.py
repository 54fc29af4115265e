"""Large files are split over Ray tasks, and give what one process gives."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from tiny_corpus import sentences

from ialign_ray.config import CorpusConfig, ScalingConfig, build_experiment
from ialign_ray.corpus import build as build_module
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.rows import corpus_chunks
from ialign_ray.errors import DataError
from ialign_ray.storage import file_hash

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROWS = 3000


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    lines = [json.dumps(row) + "\n" for row in sentences(ROWS)]
    (tmp_path / "big.jsonl").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr("ialign_ray.streaming.chunks.SMALL", 0)
    monkeypatch.setattr(build_module, "corpus_chunks", lambda c, base: corpus_chunks(c, base, size=40_000))
    return build_experiment(
        {
            "name": "big",
            "languages": {"l1": ["eng"], "l2": ["ind", "jav"]},
            "model": {"id": "none"},
            "corpora": [
                {"name": "big", "path": "big.jsonl", "columns": {c: c for c in ("eng", "ind", "jav")}, "id": "sid"}
            ],
            "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
        },
        "test",
    )


def test_a_build_on_the_cluster_equals_one_in_this_process(ray_cluster, experiment, tmp_path):
    from ialign_ray.streaming.chunks import ClusterRunner

    index = EvaluationIndex.build([sentences(1, first=77)[0]["jav"]], threshold=None)
    stages = []
    with ClusterRunner(ScalingConfig()) as runner:
        built = build_corpus(experiment, index, runner, lambda name, done, total: stages.append((name, done, total)))
    totals = Counter(total for _, done, total in stages if done == total)
    assert max(totals) >= 8  # one file, many tasks
    local = build_corpus(
        build_experiment(
            experiment.model_dump(mode="json") | {"storage": {"data": str(tmp_path), "runs": str(tmp_path / "here")}},
            "x",
        ),
        index,
    )
    assert local.folder.name == built.folder.name
    assert local.counts == built.counts
    assert {p.name: file_hash(p) for p in local.folder.rglob("*.parquet")} == {
        p.name: file_hash(p) for p in built.folder.rglob("*.parquet")
    }
    rows = built.read("big").to_pylist()
    assert [r["id"] for r in rows] == [f"big:{k}" for k in range(ROWS) if k != 77]
    assert [r["line"] for r in rows] == [k + 1 for k in range(ROWS) if k != 77]


def test_a_users_error_in_a_task_is_one_sentence(ray_cluster, experiment, tmp_path):
    from ialign_ray.streaming.chunks import ClusterRunner

    path = tmp_path / "big.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[2500] = '{"sid": 2500, "eng": "torn\n'
    path.write_text("".join(lines), encoding="utf-8")
    with ClusterRunner(ScalingConfig()) as runner, pytest.raises(DataError, match=r"big\.jsonl, line 2501 ") as caught:
        build_corpus(experiment, EvaluationIndex.build([]), runner)
    assert "\n" not in str(caught.value)


def test_a_corpus_is_a_ray_dataset(ray_cluster, experiment, tmp_path):
    from ialign_ray.streaming.chunks import read_corpus

    corpus: CorpusConfig = experiment.corpora[0]
    dataset = read_corpus(corpus, str(tmp_path))
    assert dataset.count() == ROWS
    assert dataset.filter(lambda row: row["id"] == "big:5").take_all()[0]["jav"] == sentences(6)[5]["jav"]
