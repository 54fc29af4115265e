"""Raw tables of any reader as parallel rows: ids, units, and files with a language a row."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ialign_ray.config import CorpusConfig
from ialign_ray.corpus.identity import text_key
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.corpus.schema import schema
from ialign_ray.errors import DataError

COLUMNS = {"eng": "eng", "jav": "jav"}


def rows(size=1 << 20, bad=None, **config):
    corpus = CorpusConfig(**{"name": "c", "columns": COLUMNS} | config)
    bad = [] if bad is None else bad
    tables = [t for c in corpus_chunks(corpus, ".", size) for t in read_rows(corpus, c, bad)]
    assert all(t.schema == schema(corpus.languages) for t in tables)
    return [r for t in tables for r in t.to_pylist()]


def told(**config):
    with pytest.raises(DataError) as caught:
        rows(**config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(folder, name, values):
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), path)
    else:
        path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return str(path)


def test_texts_are_stripped_and_identified(tmp_path):
    path = put(
        tmp_path, "r.jsonl", [{"eng": " One\n", "jav": "\u2003"}, {"jav": "loro", "n": 1}, {"eng": "", "jav": None}]
    )
    key = [text_key(t).hex() for t in ("One", "loro", "")]
    assert rows(path=path) == [
        {"id": f"c:{key[0]}", "file": 1, "line": 1, "eng": "One", "jav": None},
        {"id": f"c:{key[1]}", "file": 1, "line": 2, "eng": None, "jav": "loro"},
        {"id": f"c:{key[2]}", "file": 1, "line": 3, "eng": None, "jav": None},
    ]


def test_an_id_column_names_the_rows_and_a_hash_those_without(tmp_path):
    path = put(tmp_path, "r.parquet", [{"n": 7, "eng": "a", "jav": "b"}, {"n": None, "eng": "c", "jav": "d"}])
    assert [r["id"] for r in rows(path=path, id="n")] == ["c:7", f"c:{text_key('c').hex()}"]


def test_numbers_are_texts_and_other_values_are_refused(tmp_path):
    assert rows(path=put(tmp_path, "a.jsonl", [{"eng": 3, "jav": "b"}]))[0]["eng"] == "3"
    assert "column 'eng' holds list" in told(path=put(tmp_path, "b.jsonl", [{"eng": [1], "jav": "b"}]))
    assert "has no column 'jav'" in told(path=put(tmp_path, "c.jsonl", [{"eng": "x"}]))


def test_where_and_limit_over_several_files(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, f"{name}.jsonl", [{"eng": f"{name}{k}", "jav": "x", "kind": "uv"[k % 2]} for k in range(20)])
    path = str(tmp_path / "*.jsonl")
    kept = rows(path=path, where={"kind": "u"}, size=50)
    assert [(r["file"], r["line"]) for r in kept] == [(f, k) for f in (1, 2) for k in range(1, 21, 2)]
    some, again = (rows(path=path, where={"kind": "u"}, limit=6) for _ in range(2))
    assert some == again
    assert len(some) == 6
    assert all(r in kept for r in some)
    assert {r["file"] for r in some} == {1, 2}


UNITS = [
    {"eng": "a\nb\n\nc", "jav": "1\n2\n\n3"},
    {"eng": "d\ne", "jav": "4"},
    {"eng": "f", "jav": "5"},
    {"eng": "g\r\nh", "jav": None},
]


def test_units_split_where_all_languages_have_as_many_lines(tmp_path):
    path = put(tmp_path, "r.jsonl", [u | {"id": k} for k, u in enumerate(UNITS)])
    made = rows(path=path, id="id", units=True)
    assert [(r["id"], r["line"], r["eng"], r["jav"]) for r in made] == [
        ("c:0/1", 1, "a", "1"),
        ("c:0/2", 1, "b", "2"),
        ("c:0/4", 1, "c", "3"),
        ("c:1", 2, "d\ne", "4"),
        ("c:2", 3, "f", "5"),
        ("c:3/1", 4, "g", None),
        ("c:3/2", 4, "h", None),
    ]
    assert [r["id"] for r in rows(path=path, id="id")] == ["c:0", "c:1", "c:2", "c:3"]


LONG = [
    {"n": 1, "lang": "jv", "ind": "satu", "text": "siji"},
    {"n": 1, "lang": "su", "ind": "satu", "text": "hiji"},
    {"n": 2, "lang": "xx", "ind": "dua", "text": "?"},
    {"n": 2, "lang": "jv", "ind": "dua", "text": "loro"},
]


def test_a_language_a_row_without_join_pairs_with_the_columns(tmp_path):
    path = put(tmp_path, "r.parquet", LONG)
    long = {"language": "lang", "text": "text", "values": {"jav": "jv", "sun": "su"}}
    made = rows(path=path, columns={"ind": "ind"}, long=long, id="n", pivots=["ind"])
    assert [(r["id"], r["line"], r["ind"], r["jav"], r["sun"]) for r in made] == [
        ("c:1", 1, "satu", "siji", None),
        ("c:1", 2, "satu", None, "hiji"),
        ("c:2", 4, "dua", "loro", None),
    ]


def test_equal_join_values_make_one_row(tmp_path):
    path = put(tmp_path, "r.jsonl", [*LONG, LONG[0]])
    long = {"language": "lang", "text": "text", "values": {"jav": "jv", "sun": "su"}, "join": "n"}
    assert len(corpus_chunks(CorpusConfig(name="c", path=path, long=long, pivots=["jav"]), ".", 1)) == 1
    made = rows(path=path, columns={"ind": "ind"}, long=long, pivots=["ind"])
    assert [(r["id"], r["line"], r["ind"], r["jav"], r["sun"]) for r in made] == [
        ("c:1", 1, "satu", "siji", "hiji"),
        ("c:2", 4, "dua", "loro", None),
    ]
    path = put(tmp_path, "u.jsonl", [{"n": 0, "lang": k, "text": t} for k, t in (("jv", "a\nb"), ("su", "1\n2"))])
    units = rows(path=path, columns={}, long=long, pivots=["jav"], units=True)
    assert [(r["id"], r["jav"], r["sun"]) for r in units] == [("c:0/1", "a", "1"), ("c:0/2", "b", "2")]


def test_two_texts_of_one_join_value_are_refused(tmp_path):
    path = put(tmp_path, "r.jsonl", [*LONG, LONG[0] | {"text": "setunggal"}])
    long = {"language": "lang", "text": "text", "values": {"jav": "jv", "sun": "su"}, "join": "n"}
    message = told(path=path, columns={}, long=long, pivots=["jav"])
    assert (
        f"n = '1' has two texts in 'jav' ({path}, line 1, and {path}, line 5); choose one version with `where`"
        in message
    )


def test_a_row_without_join_value_is_a_bad_row(tmp_path):
    path = put(tmp_path, "r.jsonl", [*LONG, {"lang": "jv", "text": "x"}])
    long = {"language": "lang", "text": "text", "values": {"jav": "jv", "sun": "su"}, "join": "n"}
    config = {"path": path, "columns": {}, "long": long, "pivots": ["jav"]}
    assert f"{path}, line 5 has no 'n'" in told(**config)
    bad = []
    assert len(rows(**config, bad_rows="drop", bad=bad)) == 2
    assert [b.line for b in bad] == [5]


def test_aligned_files_and_memories_give_the_same_form(tmp_path):
    (tmp_path / "p.en").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "p.jv").write_text("siji\n\n", encoding="utf-8")
    made = rows(path=str(tmp_path / "p"), columns={"eng": "en", "jav": "jv"})
    assert [(r["line"], r["eng"], r["jav"]) for r in made] == [(1, "one", "siji"), (2, "two", None)]
    (tmp_path / "m.tmx").write_text(
        '<tmx><body><tu tuid="q"><tuv xml:lang="en"><seg> one </seg></tuv><tuv xml:lang="jv"><seg>siji</seg></tuv></tu>'
        "</body></tmx>", encoding="utf-8",
    )  # fmt: skip
    made = rows(path=str(tmp_path / "m.tmx"), columns={"eng": "en", "jav": "jv"}, id="tuid")
    assert made == [{"id": "c:q", "file": 1, "line": 1, "eng": "one", "jav": "siji"}]


SCRIPTS = [
    {"id": k, "iso": iso, "script": script, "text": text}
    for k in (0, 1)
    for iso, script, text in (
        ("eng", "Latn", f"Hello {k}."),
        ("ace", "Latn", f"Peue haba {k}?"),
        ("ace", "Arab", f"ڤو هابا {k}؟"),
        ("srp", "Cyrl", f"Здраво {k}."),
        ("srp", None, "?"),
    )
]


@pytest.mark.parametrize("values", [["ace", "Arab"], "ace_Arab"])
@pytest.mark.parametrize("join", ["id", None])
def test_two_columns_name_a_language_and_its_script(tmp_path, values, join):
    path = put(tmp_path, "r.jsonl", SCRIPTS)
    known = {"ace": "ace_Latn", "ace_Arab": values, "srp": ["srp", "Cyrl"], "eng": "eng_Latn"}
    long = {"language": ["iso", "script"], "text": "text", "values": known, "join": join}
    made = rows(path=path, columns={}, long=long)
    texts = [(r["ace"], r["ace_Arab"], r["srp"]) for r in made]
    if join:
        assert texts == [(f"Peue haba {k}?", f"ڤو هابا {k}؟", f"Здраво {k}.") for k in (0, 1)]
    else:
        assert [sum(t is not None for t in found) for found in texts] == [0, 1, 1, 1] * 2
        assert texts[2] == (None, "ڤو هابا 0؟", None)


def test_two_languages_of_one_value_are_refused():
    long = {"language": "iso", "text": "text", "values": {"ace": "ace", "ace_Arab": "ace", "eng": "eng"}}
    with pytest.raises(ValidationError, match="ace and ace_Arab have the same value 'ace'"):
        CorpusConfig(name="c", path="a.jsonl", long=long)
