"""The same sentences in every format that is read go through one build and come out the same."""

import pytest
from every_format import COUNT, EXPECTED, ROWS, write_corpora

from ialign_ray.config import build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.errors import ConfigError


def test_every_format_gives_the_same_rows_through_one_build(tmp_path):
    corpora = write_corpora(tmp_path)
    experiment = build_experiment(
        {
            "name": "formats",
            "languages": {"l1": ["eng"], "l2": ["jav"]},
            "model": {"id": "none"},
            "corpora": [{"name": name, **settings} for name, settings in corpora.items()],
            "cleaning": {"steps": ["normalise", "characters", "empty", "identical", "length"]},
            "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
        },
        "test",
    )
    built = build_corpus(experiment, EvaluationIndex.build([]))
    for name, settings in corpora.items():
        rows = built.read(name).to_pylist()
        assert [(r["eng"], r["jav"]) for r in rows] == EXPECTED, name
        if "id" in settings or name == "long":
            assert [r["id"] for r in rows] == [f"{name}:{r['sid']}" for r in ROWS], name
        assert len({r["id"] for r in rows}) == COUNT, name
        assert built.counts["corpora"][name]["rows_in"] == COUNT, name
        assert built.counts["corpora"][name]["unreadable"] == 0, name


def test_one_language_under_two_codes_is_refused():
    columns = {"eng": "eng", "en": "jav"}
    with pytest.raises(ConfigError, match="same language"):
        build_experiment(
            {
                "name": "twice",
                "model": {"id": "none"},
                "corpora": [{"name": "a", "path": "a.parquet", "columns": columns}],
            },
            "test",
        )
