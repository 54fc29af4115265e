"""The same sentences, and rows that are hard to read, in every format that is read."""

import csv
import gzip
import json
from xml.sax.saxutils import escape

import fsspec
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COUNT = 60
ROWS = [
    {
        "sid": f"{k:03d}",
        "eng": f'He said "number {k}", then & only then left <b>.',
        "jav": f"Dhèwèké kandha, “angka {k}”; banjur\u2028lunga ꦲ {k}.",
    }
    for k in range(COUNT)
]
EXPECTED = [(r["eng"], " ".join(r["jav"].split())) for r in ROWS]
PAIR = {"eng": "eng", "jav": "jav"}


def delimited(path, mark, encoding="utf-8-sig", head=(("sid", "eng", "jav"),), **style):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=mark, **style).writerows([*head, *([r["sid"], r["eng"], r["jav"]] for r in ROWS)])


def lines(code):
    return "".join(r[code] + "\n" for r in ROWS)


def tmx():
    units = "".join(
        f'<tu tuid="{r["sid"]}"><tuv xml:lang="EN-us"><seg>{escape(r["eng"])}</seg></tuv>'
        f'<tuv xml:lang="de"><seg>anders {r["sid"]}</seg></tuv>'
        f'<tuv xml:lang="jv"><seg>{escape(r["jav"])}</seg></tuv></tu>\n'
        for r in ROWS
    )
    head = '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/>'
    return f"{head}<body>\n{units}</body></tmx>\n"


def xliff():
    units = "".join(
        f'<trans-unit id="{r["sid"]}"><source>{escape(r["eng"])}</source><target>{escape(r["jav"])}</target>'
        "</trans-unit>\n"
        for r in ROWS
    )
    head = '<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">'
    file = '<file original="a" source-language="en" target-language="jv" datatype="plaintext">'
    return f"{head}{file}<body>{units}</body></file></xliff>"


def po():
    # polib takes U+2028 for the end of a line, and would call the file malformed
    quoted = [[json.dumps(r[c].replace("\u2028", " "), ensure_ascii=False) for c in ("eng", "jav")] for r in ROWS]
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    return head + "".join(f"msgid {a}\nmsgstr {b}\n\n" for a, b in quoted)


def write_corpora(tmp_path):
    """Write ROWS in every format; name -> the corpus in an experiment file."""
    datasets = pytest.importorskip("datasets")
    zstandard = pytest.importorskip("zstandard")
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    (tmp_path / "many").mkdir()
    for part in range(3):
        text = "".join(json.dumps(r) + "\n" for r in ROWS[part * 20 : part * 20 + 20])
        (tmp_path / "many" / f"p{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.json").write_text(json.dumps({"data": ROWS}, indent=1), encoding="utf-8")
    nested = [{"sid": r["sid"], "translation": {"en": r["eng"], "jv": r["jav"]}} for r in ROWS]
    (tmp_path / "nested.jsonl").write_text("".join(json.dumps(r) + "\n" for r in nested), encoding="utf-8")
    lists = [{"sid": r["sid"], "srcs": [r["eng"]], "trgs": [r["jav"]]} for r in ROWS]
    pq.write_table(pa.Table.from_pylist(lists), tmp_path / "segments.parquet")
    delimited(tmp_path / "a.csv", ",")
    bare = {"quoting": csv.QUOTE_NONE, "quotechar": None}
    delimited(tmp_path / "a.tsv", "\t", **bare)
    delimited(tmp_path / "quoted.tsv", "\t", quoting=csv.QUOTE_ALL)
    delimited(tmp_path / "bare.tsv", "\t", head=(), **bare)
    delimited(tmp_path / "excel.csv", ";", head=(("Glossary; 2nd edition",), ("sid", "eng", "jav")))
    delimited(tmp_path / "pipes.csv", "|", quotechar="'")
    delimited(tmp_path / "wide.csv", ",", "utf-16")
    for name in ("moses.en-jv", "packed"):
        for code, part in (("eng", "en"), ("jav", "jv")):
            (tmp_path / f"{name}.{part}").write_text(lines(code), encoding="utf-8", newline="\n")
    for part in ("en", "jv"):
        plain = tmp_path / f"packed.{part}"
        (tmp_path / f"packed.{part}.zst").write_bytes(zstandard.compress(plain.read_bytes()))
        plain.unlink()
    (tmp_path / "dev").mkdir()
    (tmp_path / "udhr").mkdir()
    for code, part in (("eng", "eng_Latn"), ("jav", "jav_Latn")):
        (tmp_path / "dev" / f"{part}.dev").write_text(lines(code), encoding="utf-8", newline="\n")
        halves = [lines(code).split("\n")[start : start + 30] for start in (0, 30)]
        (tmp_path / "udhr" / f"{code}.txt").write_text("\n\n".join("\n".join(h) for h in halves), encoding="utf-8")
    (tmp_path / "memory.tmx").write_text(tmx(), encoding="utf-8")
    (tmp_path / "a.xlf").write_text(xliff(), encoding="utf-8")
    (tmp_path / "a.po").write_text(po(), encoding="utf-8")
    book = openpyxl.Workbook()
    for row in [["sid", "eng", "jav"], *([r["sid"], r["eng"], r["jav"]] for r in ROWS)]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    with fsspec.open("memory://bucket/a.jsonl", "wb") as file:
        file.write("".join(json.dumps(r) + "\n" for r in ROWS).encode())
    files = {"eng": "en", "jav": "jv"}
    long = [{"key": r["sid"], "lang": c, "text": r[c]} for r in ROWS for c in ("eng", "jav")]
    pq.write_table(pa.Table.from_pylist(long), tmp_path / "long.parquet")
    values = {"eng": "eng", "jav": "jav"}
    return {
        "parquet": {"path": "a.parquet", "columns": PAIR, "id": "sid"},
        "jsonl-gz-glob": {"path": "many/*.jsonl.gz", "columns": PAIR, "id": "sid"},
        "json": {"path": "a.json", "columns": PAIR, "id": "sid"},
        "nested": {
            "path": "nested.jsonl",
            "columns": {"eng": "translation.en", "jav": "translation.jv"},
            "id": "sid",
        },
        "segments": {"path": "segments.parquet", "columns": {"eng": "srcs", "jav": "trgs"}, "id": "sid"},
        "csv": {"path": "a.csv", "columns": PAIR, "id": "sid"},
        "tsv": {"path": "a.tsv", "columns": PAIR, "id": "sid"},
        "tsv-quoted": {"path": "quoted.tsv", "columns": PAIR, "id": "sid", "quote": '"'},
        "tsv-bare": {"path": "bare.tsv", "columns": {"eng": 2, "jav": 3}, "id": 1, "header": "none"},
        "excel": {"path": "excel.csv", "columns": PAIR, "id": "sid", "header": 2},
        "pipes": {"path": "pipes.csv", "columns": PAIR, "id": "sid", "delimiter": "|", "quote": "'"},
        "utf-16": {"path": "wide.csv", "columns": PAIR, "id": "sid", "encoding": "utf-16"},
        "moses": {"path": "moses.en-jv", "columns": files},
        "moses-zst": {"path": "packed.{language}.zst", "columns": files},
        "flores-folder": {"path": "dev", "columns": {"eng": "eng_Latn", "jav": "jav_Latn"}},
        "articles": {"path": "udhr/{language}.txt", "columns": PAIR, "format": "articles", "units": True},
        "tmx": {"path": "memory.tmx", "columns": files, "id": "tuid"},
        "xliff": {"path": "a.xlf", "columns": {"eng": "source", "jav": "target"}, "id": "id"},
        "po": {"path": "a.po", "columns": {"eng": "source", "jav": "target"}},
        "spreadsheet": {"path": "a.xlsx", "columns": PAIR, "id": "sid"},
        "disk": {"path": "saved", "columns": PAIR, "id": "sid"},
        "remote": {"path": "memory://bucket/a.jsonl", "columns": PAIR, "id": "sid"},
        "long": {
            "path": "long.parquet",
            "long": {"language": "lang", "text": "text", "values": values, "join": "key"},
        },
    }


UGLY = [
    ("plain", "biasa"),
    (' 5" disk, "quoted", tab\tand 7.0 ', "baris\ndua"),
    ("", "kosong"),
    ("Cafe\u0301 \u2028 NUL-free", "ꦲ\u200d <b>tebal</b> & lain"),
    ("only here", None),
    ("last", "akhir"),
]
"""English and Javanese texts that a reader can get wrong; `write_ugly` adds what is malformed in each format."""
_TABLE = [{"sid": f"u{k}", "eng": a, "jav": b, "number": k} for k, (a, b) in enumerate(UGLY)]


def write_ugly(tmp_path):
    """Write UGLY with malformed rows in every format; name of the format -> the corpus in an experiment file."""
    datasets = pytest.importorskip("datasets")
    pq.write_table(pa.Table.from_pylist(_TABLE), tmp_path / "ugly.parquet", row_group_size=2)
    datasets.Dataset.from_list(_TABLE).save_to_disk(str(tmp_path / "ugly-saved"))
    rows = [json.dumps(r) for r in _TABLE]
    bad = ["", "{", "[1, 2]", '{"sid": "n", "eng": 3, "jav": "angka"}', '{"sid": "x", "eng": "no partner"}']
    (tmp_path / "ugly.jsonl").write_text("\ufeff" + "\r\n".join(rows[:3] + bad + rows[3:]), encoding="utf-8")
    objects = [*_TABLE, None, "text", *map(json.loads, bad[3:])]
    (tmp_path / "ugly.json").write_text("\ufeff\n" + json.dumps(objects), encoding="utf-8")
    for name, mark in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"ugly.{name}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=mark, lineterminator="\n")
            writer.writerows([["sid", "eng", "jav"], *([r["sid"], r["eng"], r["jav"]] for r in _TABLE)])
            file.write(f'\nshort{mark}row\nlong{mark}a{mark}b{mark}c\nnul{mark}a\0{mark}b\nq{mark}5" disk{mark}x')
    for code, side in (("en", 0), ("jv", 1)):
        lines = [(row[side] or "").replace("\n", " ") for row in UGLY]
        lines[2:2] = ["a NUL \0" if code == "en" else "ana", "\r" if code == "jv" else "no text there"]
        (tmp_path / f"ugly-lines.{code}").write_text("\n".join(lines), encoding="utf-8", newline="\n")
        stanzas = "\n\n\n".join("\n".join(line.split()) or "-" for line in lines)
        (tmp_path / f"ugly-articles.{code}.txt").write_text(f"\n{stanzas}\n\n\n", encoding="utf-8", newline="\n")
    (tmp_path / "ugly.tmx").write_text(
        '<tmx version="1.4"><body>'
        '<tu tuid="1"><tuv xml:lang="en"><seg>a <hi>kept</hi><ph>{0}</ph> <bpt i="1">&lt;b&gt;</bpt>word</seg></tuv>'
        '<tuv xml:lang="JV"><seg> </seg></tuv><tuv xml:lang="jv-ID"><seg>tembung</seg></tuv></tu>\n'
        '<tu><tuv lang="EN-GB"><seg>no id</seg></tuv><tuv lang="jav"><seg>tanpa <sub>x</sub></seg></tuv></tu>\n'
        '<tu tuid="3"><tuv xml:lang="en"><seg>alone</seg></tuv></tu>\n<tu tuid="4"><tuv xml:lang="en"><seg>torn',
        encoding="utf-8",
    )
    (tmp_path / "ugly.xlf").write_text(
        '<xliff version="2.0"><file id="f"><unit id="1"><segment><source>one<ph id="1"/></source>'
        "<target>siji</target></segment>\n<segment><source>two</source></segment></unit>\n"
        '<unit id="2"><mtc:matches xmlns:mtc="m"><mtc:match><source>no</source><target>ora</target></mtc:match>'
        "</mtc:matches><segment><source>three</source><target>telu</target></segment></unit>\n"
        '<trans-unit id="4"><source>four</source><target>papat</target><alt-trans><target>no</target></alt-trans>'
        "</trans-unit></file></xliff>",
        encoding="utf-8",
    )
    (tmp_path / "ugly.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
        'msgctxt "menu"\nmsgid "Open"\nmsgstr "Bukak"\n\n'
        '#, fuzzy\nmsgid "Fuzzy"\nmsgstr "Ora"\n\nmsgid "one %d"\nmsgid_plural "%d many"\nmsgstr[0] "siji"\n'
        'msgstr[1] "%d akeh"\n\nmsgid "untranslated"\nmsgstr ""\n\n#~ msgid "old"\n#~ msgstr "lawas"\n',
        encoding="utf-8",
    )
    book = openpyxl.Workbook()
    for row in [
        ["sid", "eng", "jav"],
        [1, 7.0, "pitu"],
        [],
        [2.5, "half", None],
        *([r["sid"], *p] for r, p in zip(_TABLE, UGLY)),
    ]:
        book.active.append(row)
    book.save(tmp_path / "ugly.xlsx")
    two = {"eng": "en", "jav": "jv"}
    named = {
        name: {"path": f"ugly.{name}", "columns": PAIR, "id": "sid"}
        for name in ("parquet", "jsonl", "json", "csv", "tsv")
    }
    corpora = named | {
        "sheet": {"path": "ugly.xlsx", "columns": PAIR, "id": "sid"},
        "disk": {"path": "ugly-saved", "columns": PAIR, "id": "sid"},
        "lines": {"path": "ugly-lines", "columns": two},
        "articles": {"path": "ugly-articles.{language}.txt", "columns": two, "format": "articles"},
        "tmx": {"path": "ugly.tmx", "columns": two, "id": "tuid"},
        "xliff": {"path": "ugly.xlf", "columns": {"eng": "source", "jav": "target"}},
        "po": {"path": "ugly.po", "columns": {"eng": "source", "jav": "target"}},
    }
    return {name: {**corpus, "bad_rows": "drop"} for name, corpus in corpora.items()}
