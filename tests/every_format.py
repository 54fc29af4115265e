"""The same sentences in every format that is read, and the table of formats in `docs/data.md`.

`python tests/every_format.py` writes the table.
"""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import fsspec
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

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
DOCUMENT = Path(__file__).parent.parent / "docs" / "data.md"
BEGIN, END = "<!-- formats: written by tests/every_format.py -->", "<!-- end of formats -->"


@dataclass(frozen=True)
class Form:
    """One form of files: its name, what they are, the line of the experiment file that reads them, and their writer."""

    name: str
    what: str
    """Empty for one that the table leaves out."""
    yaml: str
    write: Callable[[Path], None]


def texts(folder, names, rows=ROWS):
    """One file of lines for each language."""
    for code, name in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(code, rows), encoding="utf-8", newline="\n")


def lines(code, rows=ROWS):
    return "".join(r[code] + "\n" for r in rows)


def objects(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def delimited(name, mark, encoding="utf-8-sig", head=(("sid", "eng", "jav"),), **style):
    def write(folder):
        with (folder / name).open("w", encoding=encoding, newline="") as file:
            rows = [*head, *([r["sid"], r["eng"], r["jav"]] for r in ROWS)]
            csv.writer(file, delimiter=mark, **style).writerows(rows)

    return write


def parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "pairs.parquet", row_group_size=7)


def saved(folder):
    pytest.importorskip("datasets").Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))


def many(folder):
    (folder / "many").mkdir()
    for part in range(3):
        text = "".join(json.dumps(r) + "\n" for r in ROWS[part * 20 : part * 20 + 20])
        (folder / "many" / f"p{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def nested(folder):
    rows = [{"sid": r["sid"], "translation": {"en": r["eng"], "jv": r["jav"]}} for r in ROWS]
    objects(folder / "opus.jsonl", rows)


def segments(folder):
    rows = [{"sid": r["sid"], "srcs": [r["eng"]], "trgs": [r["jav"]]} for r in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "documents.parquet")


def array(folder):
    (folder / "pairs.json").write_text(json.dumps({"data": ROWS}, indent=1), encoding="utf-8")


def by_language(folder):
    for code, name in (("eng", "eng_Latn"), ("jav", "jav_Latn")):
        objects(folder / f"{name}.jsonl", [{"sid": r["sid"], "text": r[code]} for r in ROWS])


def sheet(name, number, above):
    def write(folder):
        book = openpyxl.Workbook()
        page = book.active if number == 1 else book.create_sheet("Words")
        for row in [*above, ["sid", "eng", "jav"], *([r["sid"], r["eng"], r["jav"]] for r in ROWS)]:
            page.append(row)
        book.save(folder / name)

    return write


def zstd(folder):
    compress = pytest.importorskip("zstandard").compress
    for code, part in (("eng", "en"), ("jav", "jv")):
        (folder / f"packed.{part}.zst").write_bytes(compress(lines(code).encode()))


def prefixed(folder):
    for code, part in (("eng", "en"), ("jav", "jv")):
        (folder / f"wiki.en-jv.{part}.gz").write_bytes(gzip.compress(lines(code).encode()))


def opus(folder):
    with zipfile.ZipFile(folder / "en-jv.txt.zip", "w", zipfile.ZIP_DEFLATED) as file:
        contents = {"README": "about", "QED.en-jv.en": lines("eng"), "QED.en-jv.jv": lines("jav"), "QED.en-jv.ids": ""}
        for name, text in contents.items():
            file.writestr(name, text)


def anki(folder):
    with zipfile.ZipFile(folder / "jav-eng.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("_about.txt", "about")
        file.writestr("jav.txt", "".join(f"{r['eng']}\t{r['jav']}\tCC-BY 2.0\n" for r in ROWS))


def articles(folder):
    (folder / "udhr").mkdir()
    for code in PAIR:
        halves = [lines(code, ROWS[start : start + 30]).rstrip("\n") for start in (0, 30)]
        (folder / "udhr" / f"{code}.txt").write_text("\n\n".join(halves), encoding="utf-8")


def tmx(folder):
    units = "".join(
        f'<tu tuid="{r["sid"]}"><tuv xml:lang="EN-us"><seg>{escape(r["eng"])}</seg></tuv>'
        f'<tuv xml:lang="de"><seg>anders {r["sid"]}</seg></tuv>'
        f'<tuv xml:lang="jv"><seg>{escape(r["jav"])}</seg></tuv></tu>\n'
        for r in ROWS
    )
    head = '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/>'
    (folder / "memory.tmx").write_text(f"{head}<body>\n{units}</body></tmx>\n", encoding="utf-8")


def xliff(name, unit):
    def write(folder):
        units = "".join(unit(r["sid"], escape(r["eng"]), escape(r["jav"])) for r in ROWS)
        head = '<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2" xmlns:mq="m" xmlns:sdl="s">'
        file = '<file original="a" source-language="en" target-language="jv" datatype="plaintext">'
        (folder / name).write_text(f"{head}{file}<body>{units}</body></file></xliff>", encoding="utf-8")

    return write


def plain_unit(sid, source, target):
    return f'<trans-unit id="{sid}"><source>{source}</source><target>{target}</target></trans-unit>\n'


def trados_unit(sid, source, target):
    sides = (
        f'<{side}><mrk mtype="seg" mid="1">{text}</mrk></{side}>'
        for side, text in (("seg-source", source), ("target", target))
    )
    states = '<sdl:seg-defs><sdl:seg id="1" conf="Translated"/></sdl:seg-defs>'
    return f'<trans-unit id="{sid}"><source>{source}</source>{"".join(sides)}{states}</trans-unit>\n'


def memoq_unit(sid, source, target):
    return plain_unit(sid, source, target).replace("<trans-unit ", '<trans-unit mq:status="ManuallyConfirmed" ')


def po(folder):
    # polib takes U+2028 for the end of a line, and would call the file malformed
    quoted = [[json.dumps(r[c].replace("\u2028", " "), ensure_ascii=False) for c in ("eng", "jav")] for r in ROWS]
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    (folder / "jv.po").write_text(head + "".join(f"msgid {a}\nmsgstr {b}\n\n" for a, b in quoted), encoding="utf-8")


def wmt(folder):
    docs = "".join(
        f'<doc id="{r["sid"]}"><src lang="en"><p><seg id="1">{escape(r["eng"])}</seg></p></src>\n'
        f'<ref lang="jv" translator="A"><p><seg id="1">{escape(r["jav"])}</seg></p></ref></doc>\n'
        for r in ROWS
    )
    (folder / "newstest.xml").write_text(f'<dataset id="newstest">{docs}</dataset>', encoding="utf-8")


def sgm(folder):
    for kind, code, part in (("src", "eng", "en"), ("ref", "jav", "jv")):
        segments = "".join(f"<seg id={r['sid']}>{r[code]}</seg>\n" for r in ROWS)
        text = f'<{kind}set setid="newstest" srclang="any"><DOC docid=d>\n{segments}</DOC></{kind}set>'
        (folder / f"newstest-{kind}.{part}.sgm").write_text(text, encoding="utf-8")


def tatoeba(folder):
    sides = [(f"{side}{r['sid']}", code, r[code]) for r in ROWS for side, code in ((1, "eng"), (2, "jav"))]
    (folder / "sentences.csv").write_text("".join("\t".join(s) + "\n" for s in sides), encoding="utf-8")
    (folder / "links.csv").write_text("".join(f"1{r['sid']}\t2{r['sid']}\n" for r in ROWS), encoding="utf-8")


def remote(folder):
    with fsspec.open("memory://bucket/pairs.jsonl", "wb") as file:
        file.write("".join(json.dumps(r) + "\n" for r in ROWS).encode())


def long(folder):
    rows = [{"key": r["sid"], "lang": c, "text": r[c]} for r in ROWS for c in ("eng", "jav")]
    pq.write_table(pa.Table.from_pylist(rows), folder / "long.parquet")


def scripts(folder):
    rows = [
        {"id": r["sid"], "iso_639_3": c, "iso_15924": s, "text": r[c] if s != "Java" else "ꦲ"}
        for r in ROWS
        for c, s in (("eng", "Latn"), ("jav", "Java"), ("jav", "Latn"))
    ]
    objects(folder / "flores-plus.jsonl", rows)


BARE = {"quoting": csv.QUOTE_NONE, "quotechar": None}
SIDES = "columns: {eng: eng, jav: jav}, id: sid"
FILES = "columns: {eng: en, jav: jv}"
UNITS = "columns: {eng: source, jav: target}, id: id"
FORMS = [
    Form("parquet", "Parquet", f"path: pairs.parquet, {SIDES}", parquet),
    Form("disk", "a folder of `datasets`' `save_to_disk`", f"path: saved, {SIDES}", saved),
    Form("jsonl-gz-glob", "JSON Lines, compressed, several files", f"path: many/*.jsonl.gz, {SIDES}", many),
    Form(
        "nested",
        "columns inside a column",
        "path: opus.jsonl, columns: {eng: translation.en, jav: translation.jv}, id: sid",
        nested,
    ),
    Form(
        "segments",
        "lists of segments, split into pairs",
        "path: documents.parquet, columns: {eng: srcs, jav: trgs}, id: sid, units: true",
        segments,
    ),
    Form("json", "a JSON array, or an object with one", f"path: pairs.json, {SIDES}", array),
    Form(
        "by-language",
        "a table for each language",
        "path: '{language}.jsonl', columns: {eng: eng_Latn, jav: jav_Latn}, text: text, id: sid",
        by_language,
    ),
    Form("csv", "CSV (comma, semicolon or tab)", f"path: pairs.csv, {SIDES}", delimited("pairs.csv", ",")),
    Form(
        "excel",
        "CSV with a title above its names",
        f"path: excel.csv, {SIDES}, header: 2",
        delimited("excel.csv", ";", head=(("Glossary; 2nd edition",), ("sid", "eng", "jav"))),
    ),
    Form(
        "marks",
        "CSV with other marks",
        f'path: marks.csv, {SIDES}, delimiter: ^, quote: "\'"',
        delimited("marks.csv", "^", quotechar="'"),
    ),
    Form(
        "utf-16",
        "CSV in another encoding",
        f"path: wide.csv, {SIDES}, encoding: utf-16",
        delimited("wide.csv", ",", "utf-16"),
    ),
    Form("tsv", "TSV: a quotation mark is text", f"path: pairs.tsv, {SIDES}", delimited("pairs.tsv", "\t", **BARE)),
    Form(
        "tsv-quoted",
        "TSV written with quoting",
        f"path: quoted.tsv, {SIDES}, quote: '\"'",
        delimited("quoted.tsv", "\t", quoting=csv.QUOTE_ALL),
    ),
    Form(
        "tsv-bare",
        "TSV without a header",
        "path: bare.tsv, columns: {eng: 2, jav: 3}, id: 1, header: none",
        delimited("bare.tsv", "\t", head=(), **BARE),
    ),
    Form(
        "anki", "ManyThings' archives", "path: jav-eng.zip, format: tsv, header: none, columns: {eng: 1, jav: 2}", anki
    ),
    Form("spreadsheet", "Excel, OpenDocument", f"path: pairs.xlsx, {SIDES}", sheet("pairs.xlsx", 1, [])),
    Form(
        "words",
        "another sheet, with a title",
        f"path: words.xlsx, {SIDES}, sheet: Words, header: 2",
        sheet("words.xlsx", 2, [["Glossary"]]),
    ),
    Form(
        "moses",
        "Moses: line k of each file",
        f"path: europarl.en-jv, {FILES}",
        lambda folder: texts(folder, {"eng": "europarl.en-jv.en", "jav": "europarl.en-jv.jv"}),
    ),
    Form("moses-gz", "the same, compressed", f"path: wiki.en-jv, {FILES}", prefixed),
    Form("opus", "OPUS' archives", f"path: en-jv.txt.zip, {FILES}", opus),
    Form("member", "", f"path: en-jv.txt.zip!/QED.en-jv, {FILES}", lambda folder: None),
    Form("moses-zst", "the language anywhere in the name", f"path: 'packed.{{language}}.zst', {FILES}", zstd),
    Form(
        "flores-folder",
        "FLORES: a folder, languages first",
        "path: dev, columns: {eng: eng_Latn, jav: jav_Latn}",
        lambda folder: texts(folder, {"eng": "dev/eng_Latn.dev", "jav": "dev/jav_Latn.dev"}),
    ),
    Form(
        "articles",
        "articles between blank lines",
        "path: 'udhr/{language}.txt', columns: {eng: eng, jav: jav}, format: articles, units: true",
        articles,
    ),
    Form("tmx", "TMX 1.4; `en` also finds `en-US`", f"path: memory.tmx, {FILES}, id: tuid", tmx),
    Form("xliff", "XLIFF 1.2 and 2.0", f"path: app.xliff, {UNITS}", xliff("app.xliff", plain_unit)),
    Form("trados", "Trados", f"path: app.sdlxliff, {UNITS}", xliff("app.sdlxliff", trados_unit)),
    Form("memoq", "memoQ", f"path: app.mqxliff, {UNITS}", xliff("app.mqxliff", memoq_unit)),
    Form("po", "gettext", "path: jv.po, columns: {eng: source, jav: target}", po),
    Form("wmt", "WMT since 2021; `jv:A` is translator A", "path: newstest.xml, columns: {eng: en, jav: 'jv:A'}", wmt),
    Form("sgm", "older WMT: a file for each language", f"path: 'newstest-*.{{language}}.sgm', {FILES}", sgm),
    Form(
        "tatoeba",
        "Tatoeba: sentences and links",
        "path: sentences.csv, format: tatoeba, links: links.csv, columns: {eng: eng, jav: jav}",
        tatoeba,
    ),
    Form(
        "long",
        "rows of one language each",
        "path: long.parquet, long: {language: lang, text: text, values: {eng: eng, jav: jav}, join: key}",
        long,
    ),
    Form(
        "scripts",
        "the same, a language and its script",
        "path: flores-plus.jsonl, long: {language: [iso_639_3, iso_15924], text: text, "
        "values: {eng: eng_Latn, jav: jav_Latn}, join: id}",
        scripts,
    ),
    Form("remote", "", f"path: 'memory://bucket/pairs.jsonl', {SIDES}", remote),
]


def write_corpora(folder):
    """Write ROWS in every form; name -> the corpus in an experiment file."""
    for form in FORMS:
        form.write(folder)
    return {form.name: yaml.safe_load(f"{{{form.yaml}}}") for form in FORMS}


def table():
    """The table of formats, as Markdown."""
    rows = [f"| {form.what} | `{form.yaml}` |" for form in FORMS if form.what]
    return "\n".join(["| files | settings of the corpus |", "|---|---|", *rows])


def with_table(text):
    """A document with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
