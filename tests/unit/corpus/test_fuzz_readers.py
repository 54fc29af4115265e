"""Any bytes end in tables or in one sentence; rows that were written come back, whatever the chunks."""

import csv
import io
import json
import zipfile
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.formats import delimited, files, markup
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.errors import DataError

pytestmark = pytest.mark.slow

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.integers(1, 60)
LANGUAGES = ["eng", "jav"]

# what parsers stumble over, more often than chance would have it
PIECES = [
    b'"',
    b'""',
    b",",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"a",
    "\xe9\u2028".encode(),
]
MARKUP = [
    b"<tu>",
    b"</tu>",
    b'<tuv xml:lang="eng">',
    b"</tuv>",
    b"<seg>",
    b"</seg>",
    b"<!--",
    b"-->",
    b"<tmx><body>",
    b"&lol;",
]
PO = [b"msgid ", b"msgstr ", b'"a"', b'msgstr[0] "x"', b"msgctxt", b"#~ ", b"#, fuzzy", b"msgid_plural"]
SEGMENTS = [
    b"<trans-unit id='1'>",
    b"</trans-unit>",
    b"<source>",
    b"</source>",
    b"<seg-source>",
    b"</seg-source>",
    b"<target state='new'>",
    b"<target>",
    b"</target>",
    b"<mrk mtype='seg' mid='1'>",
    b"</mrk>",
    b"<sdl:seg id='1' conf='Draft'/>",
    b"<group translate='no'>",
    b"</group>",
    b"<segment state='initial'>",
    b"</segment>",
]
DOCUMENTS = [
    b"<dataset>",
    b"<doc id=d>",
    b"</doc>",
    b"<src lang=eng>",
    b"<ref lang='jav' translator='A'>",
    b"</src>",
    b"</ref>",
    b"<seg id='1'>",
    b"</seg>",
    b"&amp;",
    b"&#x0;",
    b"&",
]
JSON = [b'{"eng": ', b'"x"', b"}", b"[", b"1", b"1e999", b"null", b'"\\ud800"', b', "jav": ']
dirty = st.lists(
    st.one_of(st.sampled_from(PIECES + MARKUP + PO + JSON + SEGMENTS + DOCUMENTS), st.binary(max_size=4)), max_size=40
).map(b"".join)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few bytes, so that records, marks and characters lie across them."""
    for module, name in ((files, "BLOCK"), (markup, "_FEED"), (delimited, "_HEAD")):
        monkeypatch.setattr(module, name, 7)


def rows_of(source, columns, size):
    files.BLOCK = markup._FEED = delimited._HEAD = 3 + size % 23
    bad = []
    tables = [t for chunk in plan_chunks(source, ".", columns, size) for t in read_chunk(chunk, bad)]
    return [row for t in tables for row in t.to_pylist()], bad


def ends_well(source, columns, size):
    told = ""
    try:
        rows_of(source, columns, size)
    except DataError as error:
        told = str(error)
    assert "\n" not in told


@pytest.mark.parametrize("policy", ["refuse", "drop"])
@pytest.mark.parametrize(
    "kind", ["csv", "tsv", "jsonl", "json", "tmx", "xliff", "sdlxliff", "mqxliff", "po", "xml", "sgm"]
)
@QUICK
@given(data=dirty, size=sizes, encoding=st.sampled_from(["utf-8", "utf-8", "utf-16", "cp1252", "utf-7"]))
def test_any_bytes_are_read_or_refused(tmp_path, kind, policy, data, size, encoding):
    heads = {"csv": b"eng,jav\n", "tsv": b"eng\tjav\n", "tmx": b"<tmx><body>", "json": b'[{"eng": "a"}, '}
    heads |= {"xliff": b"<xliff><file>", "sdlxliff": b"<xliff><file>", "mqxliff": b"<xliff><file>", "xml": b"<dataset>"}
    columns = ["source"] if kind.endswith("xliff") or kind == "po" else LANGUAGES
    path = tmp_path / f"rows.{kind}"
    for content in (data, heads.get(kind, b"") + data):
        path.write_bytes(content)
        ends_well(DataSource(path=str(path), bad_rows=policy, encoding=encoding), columns, size)


marks = st.sampled_from([",", ";", "\t", "|", "a", '"', "'", " "])


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@QUICK
@given(
    data=dirty,
    size=sizes,
    delimiter=st.one_of(st.none(), marks),
    quote=st.one_of(st.sampled_from(["auto", "none"]), marks),
    header=st.one_of(st.just("none"), st.integers(1, 4)),
    drop=st.booleans(),
)
def test_any_bytes_in_any_dialect_are_read_or_refused(tmp_path, kind, data, size, delimiter, quote, header, drop):
    assume(delimiter != quote)
    path = tmp_path / f"rows.{kind}"
    settings = {"delimiter": delimiter, "quote": quote, "header": header, "bad_rows": "drop" if drop else "refuse"}
    for head in (b"", b"Title\neng,jav\n", b"eng\tjav\n"):
        path.write_bytes(head + data)
        ends_well(DataSource(path=str(path), **settings), [], size)
        ends_well(DataSource(path=str(path), **settings), ["1", "2"] if header == "none" else LANGUAGES, size)


@QUICK
@given(data=dirty, size=sizes, packed=st.booleans(), cut=st.integers(0, 200), flip=st.integers(0, 400))
def test_any_archive_is_read_or_refused(tmp_path, data, size, packed, cut, flip):
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("a.eng", data)
        file.writestr("a.jav", b"a\n")
    ends_well(DataSource(path=str(path), bad_rows="drop"), LANGUAGES, size)
    torn = bytearray(path.read_bytes())
    torn[flip % len(torn)] ^= 0xFF
    path.write_bytes(bytes(torn[: len(torn) - cut]))
    ends_well(DataSource(path=str(path), bad_rows="drop"), LANGUAGES, size)
    path.write_bytes(data)
    ends_well(DataSource(path=str(path)), LANGUAGES, size)


@QUICK
@given(data=dirty, links=dirty, size=sizes, drop=st.booleans())
def test_any_sentences_and_links_are_read_or_refused(tmp_path, data, links, size, drop):
    (tmp_path / "s.csv").write_bytes(b"1\teng\ta\n2\tjav\tb\n" + data)
    (tmp_path / "l.csv").write_bytes(b"1\t2\n" + links)
    source = {"path": str(tmp_path / "s.csv"), "links": str(tmp_path / "l.csv"), "format": "tatoeba"}
    ends_well(DataSource(**source, bad_rows="drop" if drop else "refuse"), LANGUAGES, size)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".sgm"])
@QUICK
@given(first=dirty, second=dirty, size=sizes, drop=st.booleans())
def test_any_tables_of_one_language_each_are_read_or_refused(tmp_path, suffix, first, second, size, drop):
    for name, data in zip(LANGUAGES, (first, second), strict=True):
        (tmp_path / f"{name}{suffix}").write_bytes(
            {".jsonl": b'{"text": "a"}\n', ".csv": b"text\n"}.get(suffix, b"") + data
        )
    path = str(tmp_path / f"{{language}}{suffix}")
    ends_well(DataSource(path=path, bad_rows="drop" if drop else "refuse"), LANGUAGES, size)


@pytest.mark.parametrize("policy", ["refuse", "drop"])
@pytest.mark.parametrize("kind", ["lines", "articles"])
@QUICK
@given(first=dirty, second=dirty, size=sizes)
def test_any_aligned_bytes_are_read_or_refused(tmp_path, kind, policy, first, second, size):
    for name, data in zip(LANGUAGES, (first, second), strict=True):
        (tmp_path / f"rows.{name}").write_bytes(data)
    ends_well(DataSource(path=str(tmp_path / "rows"), format=kind, bad_rows=policy), LANGUAGES, size)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl.gz", ".csv.zst", ".tmx.bz2", ".po.xz"])
@QUICK
@given(data=st.binary(max_size=60))
def test_any_compressed_or_binary_bytes_are_read_or_refused(tmp_path, suffix, data):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(data)
    ends_well(DataSource(path=str(path), bad_rows="drop"), ["source"] if ".po" in suffix else LANGUAGES, 16)


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
cells = st.lists(st.tuples(text, text), min_size=1, max_size=12)


@pytest.mark.parametrize("mark", [",", "\t"])
@QUICK
@given(rows=cells, size=sizes, end=st.sampled_from(["\n", "\r\n"]))
def test_csv_comes_back_with_its_lines(tmp_path, mark, rows, size, end):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(LANGUAGES)
    lines = []
    for row in rows:
        lines.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(row)
    path = tmp_path / f"rows.{'csv' if mark == ',' else 'tsv'}"
    path.write_bytes(buffer.getvalue().encode())
    found, _ = rows_of(DataSource(path=str(path), delimiter=mark, quote='"'), [], size)
    assert [r[LINE] for r in found] == lines
    assert [(r["eng"] or "", r["jav"] or "") for r in found] == rows


@QUICK
@given(
    fields=st.lists(
        st.tuples(*[st.text(st.sampled_from('ab"é '), min_size=1, max_size=8)] * 2), min_size=1, max_size=20
    ),
    size=sizes,
)
def test_stray_quotes_move_no_row(tmp_path, fields, size):
    """A quote that begins no field is a character, in every chunk."""
    rows = [(f"x{a}", f"y{b}") for a, b in fields]
    path = tmp_path / "rows.csv"
    path.write_text("eng,jav\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8")
    found, _ = rows_of(DataSource(path=str(path)), [], size)
    assert [(r["eng"], r["jav"]) for r in found] == rows
    assert [r[LINE] for r in found] == list(range(2, len(rows) + 2))


bare = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\r\n"), max_size=12)


@QUICK
@given(
    rows=st.lists(st.tuples(bare, bare), min_size=1, max_size=12),
    size=sizes,
    end=st.sampled_from(["\n", "\r\n"]),
    named=st.booleans(),
)
def test_tsv_without_quoting_comes_back_with_its_lines(tmp_path, rows, size, end, named):
    path = tmp_path / "rows.tsv"
    head = [("eng", "jav")] * named
    path.write_text("".join(f"{a}\t{b}{end}" for a, b in [*head, *rows]), encoding="utf-8", newline="")
    source = DataSource(path=str(path), header=1 if named else "none")
    found, _ = rows_of(source, LANGUAGES if named else ["1", "2"], size)
    kept = [{k: v or "" for k, v in r.items() if k != LINE} for r in found]
    assert [tuple(r.values()) for r in kept] == rows
    assert [r[LINE] for r in found] == [k + 1 + named for k in range(len(rows))]


@QUICK
@given(rows=cells, size=sizes, around=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_arrays_come_back(tmp_path, rows, size, around, indent):
    path = tmp_path / "rows.json"
    objects = [dict(zip(LANGUAGES, row, strict=True)) for row in rows]
    path.write_text(json.dumps({"data": objects} if around else objects, indent=indent), encoding="utf-8")
    found, _ = rows_of(DataSource(path=str(path)), LANGUAGES, size)
    assert [(r["eng"], r["jav"]) for r in found] == rows


@QUICK
@given(rows=cells, size=sizes, blank=st.booleans(), ascii_only=st.booleans())
def test_json_lines_come_back_with_their_lines(tmp_path, rows, size, blank, ascii_only):
    path = tmp_path / "rows.jsonl"
    between = "\n\n" if blank else "\n"
    texts = [json.dumps(dict(zip(LANGUAGES, r, strict=True)), ensure_ascii=ascii_only) for r in rows]
    path.write_text(between.join(texts), encoding="utf-8", newline="")
    found, _ = rows_of(DataSource(path=str(path)), LANGUAGES, size)
    assert [(r["eng"], r["jav"]) for r in found] == rows
    assert [r[LINE] for r in found] == [1 + k * len(between) for k in range(len(rows))]


@QUICK
@given(rows=cells, size=sizes, last=st.booleans())
def test_aligned_lines_come_back(tmp_path, rows, size, last):
    clean = [tuple(c.replace("\n", " ").rstrip("\r") for c in row) for row in rows]
    for k, name in enumerate(LANGUAGES):
        body = "\n".join(row[k] for row in clean) + ("\n" if last or not clean[-1][k] else "")
        (tmp_path / f"rows.{name}").write_text(body, encoding="utf-8", newline="")
    found, _ = rows_of(DataSource(path=str(tmp_path / "rows"), format="lines"), LANGUAGES, size)
    assert [(r["eng"], r["jav"]) for r in found] == clean
    assert [r[LINE] for r in found] == list(range(1, len(clean) + 1))


XML = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=12
)


@QUICK
@given(rows=st.lists(st.tuples(XML, XML), min_size=1, max_size=12), size=sizes)
def test_units_come_back_with_their_lines(tmp_path, rows, size):
    path = tmp_path / "rows.tmx"
    body = "".join(
        f"<tu tuid={quoteattr(str(k))}>\n<tuv xml:lang='eng'><seg>{escape(a)}</seg></tuv>"
        f"<tuv xml:lang='jav'><seg>{escape(b)}</seg></tuv></tu>\n"
        for k, (a, b) in enumerate(rows)
    )
    path.write_text(
        f"<?xml version='1.0'?>\n<tmx version='1.4'><header/><body>\n{body}</body></tmx>\n", encoding="utf-8"
    )
    found, _ = rows_of(DataSource(path=str(path)), [*LANGUAGES, "tuid"], size)
    assert [(r["eng"] or "", r["jav"] or "") for r in found] == [tuple(c if c.strip() else "" for c in r) for r in rows]
    assert [r["tuid"] for r in found] == [str(k) for k in range(len(rows))]
    assert [r[LINE] for r in found] == [3 + 2 * k for k in range(len(rows))]
