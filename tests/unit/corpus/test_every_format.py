"""The same sentences in every format that is read go through one build and come out the same."""

import csv
import gzip
import json
from xml.sax.saxutils import escape

import fsspec
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ialign_ray.config import build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.leaks import EvaluationIndex

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


def delimited(path, mark, encoding="utf-8-sig", lineterminator="\r\n"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, ["sid", "eng", "jav"], delimiter=mark, lineterminator=lineterminator)
        writer.writeheader()
        writer.writerows(ROWS)


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


@pytest.fixture
def corpora(tmp_path):
    """Name -> what the experiment file says of it, and the files beside."""
    datasets = pytest.importorskip("datasets")
    zstandard = pytest.importorskip("zstandard")
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    (tmp_path / "many").mkdir()
    for part in range(3):
        text = "".join(json.dumps(r) + "\n" for r in ROWS[part * 20 : part * 20 + 20])
        (tmp_path / "many" / f"p{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    delimited(tmp_path / "a.csv", ",")
    delimited(tmp_path / "a.tsv", "\t")
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
        "csv": {"path": "a.csv", "columns": PAIR, "id": "sid"},
        "tsv": {"path": "a.tsv", "columns": PAIR, "id": "sid"},
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


def test_every_format_gives_the_same_rows_through_one_build(corpora, tmp_path):
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


def test_one_language_under_two_codes_is_refused(tmp_path, corpora):
    from ialign_ray.errors import ConfigError

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
