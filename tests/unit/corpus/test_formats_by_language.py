"""Files of one language each in formats with columns: read as what they are, joined by id or by place."""

import csv
import gzip
import json

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ialign_ray.config import CorpusConfig, DataSource
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.corpus.suite_texts import file_texts
from ialign_ray.errors import DataError

TEXTS = {
    "eng_Latn": ["One.", 'He said "two", then\nleft.', "Three."],
    "amh_Ethi": ["አንድ።", "ሁለት።", "ሦስት።"],
    "urd_Arab": ["ایک۔", "دو۔", "تین۔"],
}
COLUMNS = {"eng": "eng_Latn", "amh": "amh_Ethi", "urd": "urd_Arab"}


def write(path, values):
    path.parent.mkdir(exist_ok=True)
    suffix = path.suffix
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), path)
    elif suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in [list(values[0]), *(list(v.values()) for v in values)]:
            book.active.append(row)
        book.save(path)
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([values[0], *(v.values() for v in values)])
    else:
        text = json.dumps(values) if suffix == ".json" else "".join(json.dumps(v) + "\n" for v in values)
        path.write_bytes(gzip.compress(text.encode()) if suffix == ".gz" else text.encode())


def rows(bad=None, **config):
    corpus = CorpusConfig(**{"name": "c", "columns": COLUMNS} | config)
    bad = [] if bad is None else bad
    return [r for c in corpus_chunks(corpus, ".", 1) for t in read_rows(corpus, c, bad) for r in t.to_pylist()]


def refused(**config):
    with pytest.raises(DataError) as caught:
        rows(**config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv", ".xlsx"])
@pytest.mark.parametrize("layout", ["{language}", "dev/{language}.flores", "folder"])
def test_each_files_texts_are_read_and_not_its_source(tmp_path, suffix, layout):
    name = "many/{language}" if layout == "folder" else layout
    for code, texts in TEXTS.items():
        values = [{"id": f"n{k}", "text": t, "split": "ab"[k % 2]} for k, t in enumerate(texts)]
        write(tmp_path / f"{name.replace('{language}', code)}{suffix}", values)
    path = str(tmp_path / ("many" if layout == "folder" else f"{layout}{suffix}"))
    expected = list(zip(*TEXTS.values(), strict=True))
    assert [(r["eng"], r["amh"], r["urd"]) for r in rows(path=path)] == expected
    assert [(r["id"], r["eng"]) for r in rows(path=path, id="id", where={"split": "a"})] == [
        ("c:n0", "One."),
        ("c:n2", "Three."),
    ]


def test_rows_are_joined_by_id(tmp_path):
    orders = {"eng_Latn": [0, 1, 2], "amh_Ethi": [2, 0], "urd_Arab": [1, 2, 0]}
    for code, order in orders.items():
        write(tmp_path / f"{code}.jsonl", [{"n": {"k": k}, "said": {"as": TEXTS[code][k]}} for k in order])
    path = str(tmp_path / "{language}.jsonl")
    made = rows(path=path, id="n.k", text="said.as")
    assert [(r["id"], r["amh"], r["urd"]) for r in made] == [
        ("c:0", "አንድ።", "ایک۔"),
        ("c:1", None, "دو۔"),
        ("c:2", "ሦስት።", "تین۔"),
    ]
    assert "amh_Ethi.jsonl has 2 rows" in refused(path=path, text="said.as")
    assert "name the `id` column" in refused(path=path, text="said.as")
    assert "has no column 'text'; it has n, said" in refused(path=path)


def test_rows_without_partner_by_id_or_place_are_refused(tmp_path):
    for code, texts in TEXTS.items():
        write(tmp_path / f"{code}.jsonl", [{"id": min(k, 1), "text": t} for k, t in enumerate(texts)])
    path = str(tmp_path / "{language}.jsonl")
    assert "line 2: duplicate id '1'" in refused(path=path, id="id")
    (tmp_path / "amh_Ethi.jsonl").write_text('{"text": "ሀ"}\n{\n{"text": "ለ"}\n', encoding="utf-8")
    assert "line 2" in refused(path=path, bad_rows="drop")
    write(tmp_path / "amh_Ethi.jsonl", [{"id": 0, "text": "ሀ"}, {"text": "ለ"}])
    write(tmp_path / "eng_Latn.jsonl", [{"id": 0, "text": "a"}])
    write(tmp_path / "urd_Arab.jsonl", [{"id": 0, "text": "b"}])
    assert "line 2 has no 'id'" in refused(path=path, id="id")
    bad = []
    assert len(rows(path=path, id="id", bad_rows="drop", bad=bad)) == 1
    assert [b.line for b in bad] == [2]


@pytest.mark.parametrize("suffix", [".tmx", ".xliff", ".po"])
def test_a_file_of_several_languages_has_no_slot(tmp_path, suffix):
    for code in TEXTS:
        (tmp_path / f"{code}{suffix}").write_text("<tmx/>", encoding="utf-8")
    assert "without {language} in the path" in refused(path=str(tmp_path / f"{{language}}{suffix}"))


def test_a_language_whose_code_is_a_suffix_is_a_file_of_lines(tmp_path):
    for code in ("ru", "tab"):
        (tmp_path / f"f.ru-tab.{code}").write_text("один\tдва\n", encoding="utf-8")
    [row] = rows(path=str(tmp_path / "f.ru-tab"), columns={"rus": "ru", "tab": "tab"}, pivots=["rus"])
    assert row["tab"] == "один\tдва"


def test_languages_beside_those_of_a_suite_are_searched_for_leaks(tmp_path):
    for code, texts in TEXTS.items():
        write(tmp_path / f"{code}.jsonl", [{"text": f"{texts[k % 3]} {k} word word"} for k in range(30)])
    found = file_texts(DataSource(path=str(tmp_path / "{language}.jsonl")), ".", ["eng_Latn", "amh_Ethi"])
    assert f"{TEXTS['urd_Arab'][1]} 7 word word" in found["urd_Arab"].to_pylist()
