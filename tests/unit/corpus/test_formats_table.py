"""Formats by name, by suffix, and from an installed package."""

import sys
from dataclasses import replace

import pytest

from ialign_ray.config import CorpusConfig, DataSource, build_experiment
from ialign_ray.corpus import formats
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.readers import plan_chunks, read_table
from ialign_ray.corpus.rows import corpus_chunks
from ialign_ray.corpus.shards import ShardJob
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.plugins import Extensible

CODE = """
import pyarrow as pa
from ialign_ray.corpus.chunks import LINE, WHOLE, Format, chunks_of
from ialign_ray.corpus.formats.files import stamp, stored

def plan(request, files, number):
    return chunks_of(request, files, number, [WHOLE], request.names, stamp(files[0]))

def read(chunk, rejects):
    pairs = []
    for number, line in enumerate(b"".join(stored(chunk.files[0])).decode().splitlines(), start=1):
        if "=" in line:
            pairs.append((number, *line.split("=")))
        else:
            rejects(chunk.files[0], number, "has no =")
    numbers, left, right = zip(*pairs)
    yield pa.table({"left": left, "right": right, LINE: pa.array(numbers, pa.int64())})

FORMAT = Format(plan, read, suffixes=(".lex",))
"""
PAIRS = {"name": "a", "columns": {"eng": "left", "jav": "right"}}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with entry points of `ialign.formats`, and reads the table anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(package, code, **points):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {package}:{value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[ialign.formats]\n{lines}")
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)
        table = formats.FORMATS
        monkeypatch.setattr(formats, "FORMATS", Extensible(table.group, formats.Format, table.builtin))

    return make


@pytest.fixture
def lexicon(tmp_path):
    (tmp_path / "a.lex").write_text("one=siji\nno pair\ntwo=loro\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("three=telu\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ({"path": "a.lex", "bad_rows": "drop"}, [("one", "siji"), ("two", "loro")]),
        ({"path": "*.lex", "bad_rows": "drop"}, [("one", "siji"), ("two", "loro")]),
        ({"path": "other.txt", "format": "lexicon"}, [("three", "telu")]),
    ],
)
def test_a_plug_in_is_chosen_by_suffix_and_by_name(install, lexicon, source, rows):
    install("lexica", CODE, lexicon="FORMAT")
    table = read_table(DataSource(**source), str(lexicon))
    assert [(r["left"], r["right"]) for r in table.to_pylist()] == rows


def test_rows_of_a_plug_in_go_through_a_build(install, lexicon):
    install("lexica", CODE, lexicon="FORMAT")
    experiment = build_experiment(
        {
            "name": "own",
            "languages": {"l1": ["eng"], "l2": ["jav"]},
            "model": {"id": "none"},
            "corpora": [PAIRS | {"path": "a.lex", "bad_rows": "drop"}],
            "replay": {"ratio": 0},
            "cleaning": {"steps": []},
            "storage": {"data": str(lexicon), "runs": str(lexicon / "runs")},
        },
        "x",
    )
    built = build_corpus(experiment, EvaluationIndex.build([]))
    assert [(r["line"], r["eng"], r["jav"]) for r in built.read("a").to_pylist()] == [
        (1, "one", "siji"),
        (3, "two", "loro"),
    ]
    assert built.counts["corpora"]["a"]["unreadable"] == 1


def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path):
    for source in ({"path": "absent.jsonl"}, {"hub": "someone/something"}):
        with pytest.raises(ConfigError, match=r"`format` of .*(absent|someone).* is 'soup'.*parquet"):
            plan_chunks(DataSource(**source, format="soup"), str(tmp_path))


def test_a_broken_plug_in_says_why_and_leaves_the_others(install, lexicon, caplog):
    install("broken", "raise RuntimeError('burnt')", lexicon="FORMAT")
    with pytest.raises(ConfigError, match=r"'lexicon', but plug-in broken, entry point ialign\.formats.*burnt"):
        plan_chunks(DataSource(path="a.lex", format="lexicon"), str(lexicon))
    with pytest.raises(DataError, match=r"'\.lex' is not known"):
        plan_chunks(DataSource(path="a.lex"), str(lexicon))
    (lexicon / "a.jsonl").write_text('{"left": "one"}\n', encoding="utf-8")
    assert read_table(DataSource(path="a.jsonl"), str(lexicon)).num_rows == 1


def test_a_suffix_of_two_formats_must_be_settled_by_name(install, lexicon):
    install("lexica", CODE, lexicon="FORMAT", glossary="FORMAT")
    with pytest.raises(DataError, match=r"\.lex .*glossary and lexicon.*`format`"):
        plan_chunks(DataSource(path="a.lex"), str(lexicon))


def test_the_version_of_its_format_is_part_of_a_shards_key(lexicon, monkeypatch):
    (lexicon / "a.jsonl").write_text('{"left": "one", "right": "siji"}\n', encoding="utf-8")
    corpus = CorpusConfig(**PAIRS, path="a.jsonl")
    job = ShardJob(corpus, corpus_chunks(corpus, str(lexicon))[0])
    before, table = job.key, formats.FORMATS
    assert job.key == before
    for name, changes in (("csv", False), ("jsonl", True)):
        raised = replace(table[name], version=table[name].version + 1)
        monkeypatch.setattr(
            formats, "FORMATS", Extensible("ialign.formats", formats.Format, {**table.builtin, name: raised})
        )
        assert (job.key != before) == changes
