"""CSV, TSV and aligned text files: quotes, encodings, damage, and files that do not fit together."""

import gzip
import os
from pathlib import Path

import pytest

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.errors import DataError

BOTH = ["eng", "jav"]


def read(source, columns=(), size=1 << 20, bad=None):
    bad = [] if bad is None else bad
    return [r for c in plan_chunks(source, ".", columns, size) for t in read_chunk(c, bad) for r in t.to_pylist()]


def told(source, columns=(), size=1 << 20):
    with pytest.raises(DataError) as caught:
        read(source, columns, size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


RAGGED = 'eng,jav\na,b\n"x\ny",z\nonly\n"p, q",r\n1,2,3\nlast,row\n'


def test_ragged_rows_are_told_or_dropped_by_line(tmp_path):
    path = put(tmp_path, "rows.csv", RAGGED)
    assert f"{path}, line 5 is malformed: Expected 2 columns, got 1" in told(DataSource(path=path))
    for size in (1, 8, 1000):
        bad = []
        rows = read(DataSource(path=path, bad_rows="drop"), size=size, bad=bad)
        assert [(r["eng"], r["jav"], r[LINE]) for r in rows] == [
            ("a", "b", 2), ("x\ny", "z", 3), ("p, q", "r", 6), ("last", "row", 8)
        ]  # fmt: skip
        assert [(b.path, b.line) for b in bad] == [(path, 5), (path, 7)]


def test_an_open_quote_costs_one_row(tmp_path):
    path = put(tmp_path, "rows.csv", 'eng,jav\na,b\n"c,d\ne,f\n')
    assert f"{path}, line 3 opens a quote" in told(DataSource(path=path))
    bad = []
    rows = read(DataSource(path=path, bad_rows="drop"), bad=bad)
    assert [(r["eng"], r[LINE]) for r in rows] == [("a", 2), ("e", 4)]
    assert [b.line for b in bad] == [3]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_nul_bytes_name_their_line(tmp_path, suffix):
    path = put(tmp_path, f"rows{suffix}", b"eng\na\nb\0\n" if suffix == ".csv" else b'{"eng": "a"}\n\n{"eng": "\0"}\n')
    assert f"{path}, line 3 contains a NUL byte" in told(DataSource(path=path))


def test_a_bad_byte_in_a_field_of_several_lines_names_the_physical_line(tmp_path):
    path = put(tmp_path, "rows.csv", b'eng,jav\n"a\nb \xff",c\n')
    assert f"{path}, line 3 is not UTF-8 (byte 3); save it as UTF-8, or set `encoding`" in told(DataSource(path=path))


@pytest.mark.parametrize("name", ["utf-16", "utf-32"])
def test_wide_encodings_are_recognised_and_read_when_named(tmp_path, name):
    path = put(tmp_path, "rows.csv", 'eng,jav\nå,"ꦲ\nꦤ"\n'.encode(name))
    assert f"set `encoding: {name}`" in told(DataSource(path=path))
    assert read(DataSource(path=path, encoding=name)) == [{"eng": "å", "jav": "ꦲ\nꦤ", LINE: 2}]
    for code in BOTH:
        put(tmp_path, f"pair.{code}", "a\nb\n".encode(name))
    assert f"set `encoding: {name}`" in told(DataSource(path=str(tmp_path / "pair")), BOTH)
    assert len(read(DataSource(path=str(tmp_path / "pair"), encoding=name), BOTH)) == 2


def test_another_encoding_names_the_line_that_is_not_of_it(tmp_path):
    path = put(tmp_path, "rows.csv", b"eng,jav\ncaf\xe9,b\n\x81,c\n")
    assert f"{path}, line 3 is not cp1252" in told(DataSource(path=path, encoding="cp1252"))
    assert [r["eng"] for r in read(DataSource(path=path, encoding="cp1252", bad_rows="drop"))] == ["café"]
    assert "encoding 'nonsense' is not known" in told(DataSource(path=path, encoding="nonsense"))
    assert "is not a text encoding" in told(DataSource(path=path, encoding="hex"))


def test_headers_that_cannot_be_used(tmp_path):
    assert "two columns 'eng'" in told(DataSource(path=put(tmp_path, "a.csv", "eng,eng\n1,2\n")))
    assert "CR only" in told(DataSource(path=put(tmp_path, "b.csv", "eng,jav\r1,2\r")))


def test_carriage_returns(tmp_path):
    path = put(tmp_path, "rows.csv", b'eng,jav\r\n"a\rb",c\r\n\r\nd,e\r\n')
    rows = read(DataSource(path=path), size=1)
    assert [(r["eng"], r["jav"], r[LINE]) for r in rows] == [("a\rb", "c", 2), ("d", "e", 4)]
    assert "line 2 holds a CR" in told(DataSource(path=put(tmp_path, "one.csv", b"eng\na\rb\n")))


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_a_line_of_a_megabyte_is_fine(tmp_path, name):
    long = "x" * (1 << 20)
    data = f'{{"eng": "{long}"}}\n{{"eng": "b"}}\n' if name.endswith("jsonl") else f"eng\n{long}\nb\n"
    path = put(tmp_path, name, data)
    assert [len(r["eng"]) for r in read(DataSource(path=path))] == [1 << 20, 1]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "pair.eng"])
def test_an_endless_line_is_a_bad_row(tmp_path, monkeypatch, name):
    from ialign_ray.corpus.formats import text

    monkeypatch.setattr(text, "LONGEST", 1 << 20)
    long = "x" * (9 << 20)
    data = f'{{"eng": "{long}"}}\n{{"eng": "b"}}\n' if name.endswith("jsonl") else f"eng\n{long}\nb\n"
    path = put(tmp_path, name, data)
    put(tmp_path, "pair.jav", "c\nd\ne\n")
    source, columns = (
        (DataSource(path=path), ["eng"]) if name != "pair.eng" else (DataSource(path=str(tmp_path / "pair")), BOTH)
    )
    line = 1 if name.endswith("jsonl") else 2
    assert f"{path}, line {line} begins a record of more than" in told(source, columns)
    rows = read(source.model_copy(update={"bad_rows": "drop"}), columns)
    assert rows[-1]["eng"] == "b"
    assert (rows[-1][LINE], rows[-1].get("jav")) == (line + 1, "e" if "pair" in name else None)


# --- aligned files ---


def test_moses_pairs_and_other_layouts(tmp_path):
    for code, text in (("eng", "a\nb\n"), ("jav", "c\nd\n")):
        put(tmp_path, f"moses.eng-jav.{code}", text)
        put(tmp_path, f"flores/{code}.dev", text)
        put(tmp_path, f"parts/1/{code}.txt", text)
        put(tmp_path, f"parts/2/{code}.txt", text * 2)
        put(tmp_path, f"packed.{code}.gz", gzip.compress(text.encode()))
    expected = [{"eng": "a", "jav": "c", LINE: 1}, {"eng": "b", "jav": "d", LINE: 2}]
    for path in (
        "moses.eng-jav",
        "moses.eng-jav.{language}",
        "flores",
        "flores/{language}.dev",
        "packed.{language}.gz",
    ):
        assert read(DataSource(path=str(tmp_path / path)), BOTH) == expected
    chunks = plan_chunks(DataSource(path=str(tmp_path / "parts/*/{language}.txt")), ".", BOTH)
    assert [(c.file, len(c.files)) for c in chunks] == [(1, 2), (2, 2)]
    (whole,) = plan_chunks(DataSource(path=str(tmp_path / "parts/*/{language}.txt"), limit=3), ".", BOTH)
    assert sum(t.num_rows for t in read_chunk(whole, [])) == 6
    (tmp_path / "parts/2/jav.txt").rename(tmp_path / "parts/2/jav.bak")
    assert "has no partner in 'jav'" in told(DataSource(path=str(tmp_path / "parts/*/{language}.txt")), BOTH)


def test_layouts_that_lack_a_file(tmp_path):
    put(tmp_path, "pair.eng", "a\n")
    assert f"{tmp_path}/pair.jav does not exist" in told(DataSource(path=str(tmp_path / "pair")), BOTH)
    put(tmp_path, "flores/eng.dev", "a\n")
    source = DataSource(path=str(tmp_path / "flores"), format="lines")
    assert "jav.* matches no file" in told(source, BOTH)
    put(tmp_path, "flores/eng.devtest", "a\n")
    assert "eng.* matches 2 files" in told(source, BOTH)
    assert "need their languages" in told(DataSource(path=str(tmp_path / "pair"), format="lines"))


@pytest.mark.parametrize("pack", [False, True])
def test_unequal_files_are_refused_with_all_counts(tmp_path, pack):
    names = [put(tmp_path, f"p.{c}{'.gz' if pack else ''}", gzip.compress(t) if pack else t)
             for c, t in (("eng", b"a\n" * 1000), ("jav", b"b\n" * 998), ("min", b"c\n" * 1001))]  # fmt: skip
    message = told(DataSource(path=str(tmp_path / ("p.{language}" + (".gz" if pack else "")))), [*BOTH, "min"])
    assert f"{names[0]} has 1,000 lines, {names[1]} 998, {names[2]} 1,001; aligned files must" in message


def test_only_line_feeds_end_a_line(tmp_path):
    put(tmp_path, "p.eng", "a\u2028b\x0b\x0c\x85\x1cc\r\nd\re\n")
    put(tmp_path, "p.jav", "1\n2")
    rows = read(DataSource(path=str(tmp_path / "p")), BOTH, size=1)
    assert [(r["eng"], r["jav"]) for r in rows] == [("a\u2028b\x0b\x0c\x85\x1cc", "1"), ("d\re", "2")]


def test_a_line_that_is_bad_in_one_file_is_dropped_from_all(tmp_path):
    bad_file = put(tmp_path, "p.jav", b"\xef\xbb\xbf1\n\xff\n3\n4\0\n5\n")
    put(tmp_path, "p.eng", "a\nb\nc\nd\ne\n")
    assert f"{bad_file}, line 2 is not UTF-8" in told(DataSource(path=str(tmp_path / "p")), BOTH)
    for size in (1, 1000):
        bad = []
        rows = read(DataSource(path=str(tmp_path / "p"), bad_rows="drop"), BOTH, size, bad)
        assert [(r["eng"], r["jav"], r[LINE]) for r in rows] == [("a", "1", 1), ("c", "3", 3), ("e", "5", 5)]
        assert [(b.path, b.line) for b in bad] == [(bad_file, 2), (bad_file, 4)]


def test_articles_are_aligned_by_number(tmp_path):
    put(tmp_path, "u.eng", "\nTitle\nfirst\n\n\nSecond  \r\nmore\r\n  \nThird")
    put(tmp_path, "u.jav", "Judul\n\nLoro\n\nTelu\n\n")
    source = DataSource(path=str(tmp_path / "u"), format="articles")
    assert read(source, BOTH) == [
        {"eng": "Title\nfirst", "jav": "Judul", LINE: 2},
        {"eng": "Second  \nmore", "jav": "Loro", LINE: 6},
        {"eng": "Third", "jav": "Telu", LINE: 9},
    ]
    put(tmp_path, "u.jav", "Judul\n\nLoro\n")
    assert "u.eng has 3 articles, " in told(source, BOTH)


def test_a_folder_that_is_not_readable_is_told(tmp_path):
    path = put(tmp_path, "rows.csv", "eng\na\n")
    Path(path).chmod(0)
    if not os.access(path, os.R_OK):  # root reads everything
        assert "cannot be read" in told(DataSource(path=path))
