"""The same sentences in every format that is read go through one build and come out the same."""

from pathlib import Path

import pytest
import yaml
from every_format import BEGIN, COUNT, DOCUMENT, END, EXPECTED, FORMS, ROWS, with_table, write_corpora

from ialign_ray.config import build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.formats import FORMATS
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
        if "id" in settings or settings.get("long"):
            assert [r["id"] for r in rows] == [f"{name}:{r['sid']}" for r in ROWS], name
        assert len({r["id"] for r in rows}) == COUNT, name
        assert built.counts["corpora"][name]["rows_in"] == COUNT, name
        assert built.counts["corpora"][name]["unreadable"] == 0, name


def test_every_format_has_a_row_in_the_table():
    read = {settings.get("format") for settings in (yaml.safe_load(f"{{{f.yaml}}}") for f in FORMS)}
    suffixes = {Path(yaml.safe_load(f"{{{f.yaml}}}")["path"]).suffix for f in FORMS}
    missing = [n for n, known in FORMATS.builtin.items() if n not in read and not suffixes.intersection(known.suffixes)]
    assert missing == ["lines", "disk"], "lines and saved folders have no suffix"


def test_the_documents_table_is_what_the_generator_writes():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text == with_table(text), "run `python tests/every_format.py`"


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
