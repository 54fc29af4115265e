"""Rows that are hard to read, and malformed ones, in every format that is read."""

import csv
import json

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from every_format import PAIR

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
    (tmp_path / "ugly.sgm").write_text(
        "<dataset><DOC id=d><src lang='en'><seg id=1>AT&T &amp; a < b</seg>\n<seg id=2>torn\n<seg id=3> \n</seg>"
        "<seg id=4>fi\nne</seg></src>\n<REF lang=jv translator=r><seg id='1'>ꦲ</seg><seg id=3>x</seg><seg id=4>&#xA98F;"
        "</seg></REF><hyp lang=jv system=s><seg id=1>no</seg></hyp></DOC></dataset>",
        encoding="utf-8",
    )
    numbered = [
        f"{side}{k}\t{code}\t{row[side - 1] or ''}"
        for k, row in enumerate(UGLY)
        for side, code in ((1, "en"), (2, "jv"))
    ]
    lines = [line.replace("\n", " ") if line.count("\t") == 2 else f"9{line}" for line in numbered]
    (tmp_path / "ugly-sentences.csv").write_text("\n".join([*lines, "77\tde\tx", "short"]), encoding="utf-8")
    links = [f"1{k}\t2{k}" for k in range(len(UGLY))] + ["20\t11", "10", "10\t77", "10\t999"]
    (tmp_path / "ugly-links.csv").write_text("\n".join(links), encoding="utf-8")
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
        "wmt": {"path": "ugly.sgm", "columns": two, "id": "id"},
        "tatoeba": {
            "path": "ugly-sentences.csv",
            "format": "tatoeba",
            "links": "ugly-links.csv",
            "columns": two,
            "id": "id",
        },
    }
    return {name: {**corpus, "bad_rows": "drop"} for name, corpus in corpora.items()}
