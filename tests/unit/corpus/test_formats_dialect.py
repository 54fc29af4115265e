"""Delimiters, quotes, header rows and sheets: what is detected, what a setting changes, and what a warning names."""

import csv

import openpyxl
import pytest

from ialign_ray.config import CorpusConfig, DataSource, build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.chunks import LINE, ReadNotes
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.errors import ConfigError, DataError

AMHARIC = [('"ሰላም" አለች።', '"Hello," she said.'), ('"አይ', '"No, he said.'), ("ሦስት; አራት", "three, four")]
GREEK = [("Καλημέρα, κόσμε", 'He said "hi"'), ("Δύο; τρία", "two"), ("«Ναι»", '"Yes"')]
THAI = [("สวัสดี", '5" disk'), ('"ไม่"', "no;"), ("หนึ่ง, สอง", '""')]


def put(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


def read(columns=(), size=1 << 20, notes=None, **source):
    chunks = plan_chunks(DataSource(**source), ".", columns, size)
    return [r for c in chunks for t in read_chunk(c, [], notes) for r in t.to_pylist()]


def refused(columns=(), **source):
    with pytest.raises(DataError) as caught:
        read(columns, **source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rows", [AMHARIC, GREEK, THAI])
@pytest.mark.parametrize("size", [1, 40, 1000])
def test_quotation_marks_of_a_tsv_are_text(tmp_path, rows, size):
    path = put(tmp_path, "a.tsv", "x\ten\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    assert [(r["x"], r["en"], r[LINE]) for r in read(path=path, size=size)] == [
        (a, b, k) for k, (a, b) in enumerate(rows, start=2)
    ]
    bare = put(tmp_path, "bare.tab", "".join(f"{a}\t{b}\r\n" for a, b in rows))
    assert [(r["1"], r["2"], r[LINE]) for r in read(path=bare, header="none", size=size)] == [
        (a, b, k) for k, (a, b) in enumerate(rows, start=1)
    ]


@pytest.mark.parametrize("rows", [AMHARIC, GREEK, THAI])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_csv_is_divided_by_what_divides_its_first_rows(tmp_path, rows, mark, encoding):
    with (tmp_path / "a.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=mark).writerows([["id", "x", "en"], *([k, *row] for k, row in enumerate(rows))])
    named = {"encoding": "utf-16" if encoding == "utf-16" else "utf-8", "quote": '"'}
    assert [(r["x"], r["en"]) for r in read(["x", "en"], path=str(tmp_path / "a.csv"), **named)] == rows


def test_rows_of_unequal_length_still_show_the_mark(tmp_path):
    path = put(tmp_path, "a.csv", "x;en\na;b, c\nonly\n")
    assert read(path=path, bad_rows="drop") == [{"x": "a", "en": "b, c", LINE: 2}]
    path = put(tmp_path, "b.csv", "x,en\nonly\na; b,c\n")
    assert read(path=path, bad_rows="drop") == [{"x": "a; b", "en": "c", LINE: 3}]


def test_marks_can_be_named(tmp_path):
    path = put(tmp_path, "a.csv", "x|en\n'a|b'|c\nd|'e''s'\n")
    assert [(r["x"], r["en"]) for r in read(path=path, delimiter="|", quote="'")] == [("a|b", "c"), ("d", "e's")]
    assert [r["en"] for r in read(path=put(tmp_path, "b.csv", 'x,en\na,"b\n'), quote="none")] == ['"b']
    quoted = put(tmp_path, "c.tsv", '"x"\t"en"\n"a\tb"\t"c ""d"""\n')
    assert [(r["x"], r["en"]) for r in read(path=quoted, quote='"')] == [("a\tb", 'c "d"')]
    assert "set `quote: '\"'`" in refused(["en"], path=quoted)
    assert "set `quote: '\"'`" in refused(path=put(tmp_path, "d.tsv", 'x\ten\n"a\nb"\tc\n'))


def test_a_header_under_a_title_or_none_at_all_is_named(tmp_path):
    title = put(tmp_path, "a.csv", "Glossary of 2024,,\n\nid,x,en\n1,ሀ,a\n")
    assert "set `header: 3`" in refused(["x", "en"], path=title)
    for size in (1, 1000):
        assert read(["x"], path=title, header=3, size=size) == [{"id": "1", "x": "ሀ", "en": "a", LINE: 4}]
    assert "set `header: 2`" in refused(["x", "en"], path=put(tmp_path, "t.csv", "Words, 2024\nx;en\nሀ;a, b\n"))
    bare = put(tmp_path, "b.tsv", "ሀ\ta\nለ\tb\n")
    assert "`header: none`" in refused(["x"], path=bare)
    assert "it has 1, 2" in refused(["x"], path=bare, header="none")
    assert read(["2"], path=bare, header="none") == [
        {"1": "ሀ", "2": "a", LINE: 1},
        {"1": "ለ", "2": "b", LINE: 2},
    ]
    assert "line 9 or below" in refused(path=bare, header=9)
    assert [r["2"] for r in read(path=put(tmp_path, "c.csv", "x,,en\na,b,c\n"))] == ["b"]
    corpus = CorpusConfig(name="c", path=bare, header=None, columns={"amh": 1, "eng": 2}, where={1: "ሀ"})
    assert (corpus.header, corpus.columns, corpus.where) == ("none", {"amh": "1", "eng": "2"}, {"1": "ሀ"})


def test_sheets_by_name_and_number_with_their_header(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["about"])
    words = book.create_sheet("Wörter")
    for row in (["Glossary"], [], ["id", "x"], [1, "ሀ"], [2, "ለ"]):
        words.append(row)
    book.create_sheet("bare").append(["ก", "a"])
    book.save(tmp_path / "a.xlsx")
    path = str(tmp_path / "a.xlsx")
    for sheet in (2, "Wörter"):
        assert read(["x"], path=path, sheet=sheet, header=3) == [{"x": "ሀ", LINE: 4}, {"x": "ለ", LINE: 5}]
        assert "set `header: 3`" in refused(["x"], path=path, sheet=sheet)
    assert read(["2"], path=path, sheet="bare", header="none") == [{"2": "a", LINE: 1}]
    assert "it has 1 'Sheet', 2 'Wörter', 3 'bare'" in refused(path=path, sheet="Words")
    assert "no sheet 4" in refused(path=path, sheet=4)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("a.jsonl", {"quote": "none"}), ("a.tmx", {"header": 2}), ("a.csv", {"sheet": 2}), ("a.xlsx", {"delimiter": ";"})],
)
def test_a_setting_of_another_format_is_refused(tmp_path, name, setting):
    message = refused(["x"], path=put(tmp_path, name, "x"), **setting)
    assert f"`{next(iter(setting))}` is for the formats" in message


@pytest.mark.parametrize("setting", [{"delimiter": "ab"}, {"delimiter": "é"}, {"delimiter": "\n"}, {"quote": "''"}])
def test_a_mark_that_is_no_character_is_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        build_experiment(experiment(path="a.csv", **setting), "x")


def test_equal_marks_are_refused():
    with pytest.raises(ConfigError, match="must differ"):
        build_experiment(experiment(path="a.csv", delimiter="|", quote="|"), "x")


def experiment(**corpus):
    return {
        "name": "marks",
        "languages": {"l1": ["eng"], "l2": ["amh"]},
        "model": {"id": "none"},
        "corpora": [{"name": "c", "columns": {"eng": "en", "amh": "x"}, **corpus}],
        "replay": {"ratio": 0},
        "cleaning": {"steps": []},
    }


def warned(tmp_path, **corpus):
    data = experiment(**corpus) | {"storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")}}
    return build_corpus(build_experiment(data, "x"), EvaluationIndex.build([])).counts["warnings"]


def test_signs_of_other_quoting_are_one_warning_of_the_build(tmp_path):
    body = "".join(f'"en {k}, b"\t"ሀ ""{k}"""\n' for k in range(30))
    path = put(tmp_path, "a.tsv", "en\tx\n" + body)
    [warning] = warned(tmp_path, path="a.tsv")
    assert warning.startswith(f"{path}: 60 fields begin and end")
    assert not warned(tmp_path, path="a.tsv", quote='"')
    assert not warned(tmp_path, path="a.tsv", quote="none")
    path = put(tmp_path, "b.csv", 'en,x\n"one\n",ሀ\nb,"ለ\n\nለ"\nc,d\n')
    [warning] = warned(tmp_path, path="b.csv")
    assert warning.startswith(f"{path}: 2 rows have a quoted field")
    assert "line 2" in warning
    assert not warned(tmp_path, path="b.csv", quote='"')
    put(tmp_path, "c.csv", "en,x\n" + "".join(f'"a, {k}",ሀ{k}\n' for k in range(30)))
    put(tmp_path, "d.tsv", "en\tx\n" + '"He left," she said.\tሀ\n' * 30)
    assert not warned(tmp_path, path="c.csv")
    assert not warned(tmp_path, path="d.tsv")


def test_chunks_add_up_to_one_note(tmp_path):
    path, notes = put(tmp_path, "a.csv", "x,en\n" + '"a\nb",c\n' * 20), ReadNotes()
    read(path=path, size=1, notes=notes)
    [warning] = notes.warnings()
    assert warning.startswith(f"{path}: 20 rows")
    assert "line 2)" in warning
