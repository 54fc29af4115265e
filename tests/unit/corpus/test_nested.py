"""Texts inside other columns: paths, lists of segments, and values that are no text."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ialign_ray.config import CorpusConfig, DataSource
from ialign_ray.corpus.formats import jsonl
from ialign_ray.corpus.readers import read_table
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.corpus.suite_texts import file_texts
from ialign_ray.errors import DataError

SPOKEN = [
    {"id": k, "translation": {"en": f"house {k}", "ne": ne, "my": my}, "kind": {"of": ["a", "b"][k % 2]}}
    for k, (ne, my) in enumerate([("घर एक", "အိမ်"), ("घर दुई", None), (None, "အိမ် ၂"), ("घर।\nचार", "အိမ်")])
]
PATHS = {"eng": "translation.en", "npi": "translation.ne", "mya": "translation.my"}
KINDS = ["a.parquet", "a.jsonl", "a.json", "saved"]


def put(folder, name, values):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(values), path, row_group_size=2)
    elif name == "saved":
        pytest.importorskip("datasets").Dataset.from_list(values).save_to_disk(str(path))
    elif name.endswith(".json"):
        path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return str(path)


def rows(size=1 << 20, **config):
    corpus = CorpusConfig(**{"name": "c"} | config)
    return [r for c in corpus_chunks(corpus, ".", size) for t in read_rows(corpus, c, []) for r in t.to_pylist()]


def refused(**config):
    with pytest.raises(DataError) as caught:
        rows(**config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_path_leads_into_a_column(tmp_path, kind, size):
    path = put(tmp_path, kind, SPOKEN)
    made = rows(size=size, path=path, columns=PATHS, id="id", where={"kind.of": ["a", "b"]})
    assert [{c: r[c] for c in PATHS} for r in made] == [
        {c: r["translation"][p.partition(".")[2]] for c, p in PATHS.items()} for r in SPOKEN
    ]
    assert [r["id"] for r in made] == ["c:0", "c:1", "c:2", "c:3"]
    assert [r["id"] for r in rows(path=path, columns=PATHS, id="id", where={"kind.of": "b"})] == ["c:1", "c:3"]
    table = read_table(DataSource(path=path), ".", ["translation.ne"])
    assert table["translation.ne"].to_pylist() == [r["translation"]["ne"] for r in SPOKEN]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_column_inside_another_is_named(tmp_path, kind, size):
    path = put(tmp_path, kind, SPOKEN)
    message = refused(size=size, path=path, columns={"eng": "en", "npi": "ne"})
    assert "no column 'en'; it has id, translation, kind; write 'translation.en'" in message
    assert "write 'translation.ne'" in refused(size=size, path=path, columns={"eng": "translation.en", "npi": "ne"})
    message = refused(size=size, path=path, columns={"eng": "translation.en", "npi": "translation.hi"})
    assert "no column 'translation.hi'" in message
    assert "such as 'translation.en'" in refused(path=path, columns={"eng": "translation", "npi": "translation.ne"})


def test_a_column_of_that_very_name_is_preferred(tmp_path):
    values = [{"a.b": "plain", "a": {"b": "inside", "c.d": "dotted"}, "x.y": {"z": ["ក", "ខ"]}}]
    for kind in KINDS:
        made = rows(path=put(tmp_path, kind, values), columns={"eng": "a.b", "khm": "x.y.z.1"})
        assert (made[0]["eng"], made[0]["khm"]) == ("plain", "ខ")


SEGMENTS = [
    {"n": 0, "srcs": ["One.", "Two."], "trgs": ["ஒன்று.", "இரண்டு."], "alt": ["一。", "二。"]},
    {"n": 1, "srcs": ["Three.", "Four."], "trgs": ["மூன்று நான்கு."], "alt": []},
    {"n": 2, "srcs": ["Five\nsix.", "Seven."], "trgs": ["ஐந்து.", "ஏழு."], "alt": None},
    {"n": 3, "srcs": ["Eight\nnine."], "trgs": ["எட்டு.", "ஒன்பது."], "alt": [None, "九。"]},
]
LISTS = {"eng": "srcs", "tam": "trgs", "zho": "alt"}


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_joined_by_line_feeds(tmp_path, kind):
    made = rows(path=put(tmp_path, kind, SEGMENTS), columns=LISTS, id="n")
    assert [(r["eng"], r["tam"], r["zho"]) for r in made] == [
        ("One.\nTwo.", "ஒன்று.\nஇரண்டு.", "一。\n二。"),
        ("Three.\nFour.", "மூன்று நான்கு.", None),
        ("Five\nsix.\nSeven.", "ஐந்து.\nஏழு.", None),
        ("Eight\nnine.", "எட்டு.\nஒன்பது.", "九。"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_units_where_every_language_has_as_many(tmp_path, kind):
    made = rows(path=put(tmp_path, kind, SEGMENTS), columns=LISTS, id="n", units=True)
    assert [(r["id"], r["eng"], r["tam"], r["zho"]) for r in made] == [
        ("c:0/1", "One.", "ஒன்று.", "一。"),
        ("c:0/2", "Two.", "இரண்டு.", "二。"),
        ("c:1", "Three.\nFour.", "மூன்று நான்கு.", None),
        ("c:2/1", "Five\nsix.", "ஐந்து.", None),
        ("c:2/2", "Seven.", "ஏழு.", None),
        ("c:3", "Eight\nnine.", "எட்டு.\nஒன்பது.", "九。"),
    ]


def test_one_item_of_a_list_is_a_column(tmp_path):
    made = rows(path=put(tmp_path, "a.parquet", SEGMENTS), columns={"eng": "srcs.0", "tam": "trgs.1"}, id="n")
    assert [(r["eng"], r["tam"]) for r in made] == [
        ("One.", "இரண்டு."), ("Three.", None), ("Five\nsix.", "ஏழு."), ("Eight\nnine.", "ஒன்பது.")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        ([{"t": "x"}], "such as 'x.0.t'"),
        ({"de": {"t": "x"}}, "such as 'x.de.t'"),
        ([["x"]], "such as 'x.0.0'"),
        ([1.5], "such as 'x.0'"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_text_is_refused_with_its_cure(tmp_path, kind, value, cure):
    path = put(tmp_path, kind, [{"en": "a", "x": value}])
    message = refused(path=path, columns={"eng": "en", "deu": "x"})
    assert "column 'x' holds" in message
    assert cure in message
    with pytest.raises(DataError, match="column 'x' holds"):
        read_table(DataSource(path=path), ".", ["x"])


def test_texts_of_a_suite_are_found_inside_columns(tmp_path):
    path = put(tmp_path, "a.jsonl", [{"t": {"en": f"the house number {k}", "ne": f"घर नम्बर {k}"}} for k in range(30)])
    for declared in (["t.en"], ["t"]):
        found = file_texts(DataSource(path=path), ".", declared)
        assert any("the house number 7" in column.to_pylist() for column in found.values())
        assert any("घर नम्बर 7" in column.to_pylist() for column in found.values())


LARGE = [2**63, 2**64 + 1, 2**64 + 2, 10**30, 12345678901234567890]


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_whole_numbers_of_any_size_stay_what_they_are(tmp_path, monkeypatch, kind, size):
    monkeypatch.setattr(jsonl, "ROWS", 2)
    path = put(tmp_path, kind, [{"id": n, "en": "a", "ne": "एक"} for n in [7, -5, *LARGE]])
    made = rows(size=size, path=path, columns={"eng": "en", "npi": "ne"}, id="id")
    assert [r["id"] for r in made] == [f"c:{n}" for n in [7, -5, *LARGE]]
    assert read_table(DataSource(path=path))["id"].to_pylist() == [str(n) for n in [7, -5, *LARGE]]
    deep = put(tmp_path, kind, [{"meta": {"id": n}, "en": "a", "ne": "एक"} for n in [1, 2**63 - 1]])
    assert [r["id"] for r in rows(path=deep, columns={"eng": "en", "npi": "ne"}, id="meta.id")] == [
        "c:1",
        f"c:{2**63 - 1}",
    ]
