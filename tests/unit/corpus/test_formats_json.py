"""JSON files: arrays, objects around them, JSON Lines under this suffix, and what is none of these."""

import gzip
import json

import pytest

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.formats import json_files
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.errors import DataError

ROWS = [{"en": f'say "{k}"', "km": f"ភាសា {k}\n\u2028"} for k in range(5)]
ARRAY = json.dumps(ROWS, ensure_ascii=False)
READ = [row | {LINE: k} for k, row in enumerate(ROWS, start=1)]


def put(folder, text, name="a.json"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(path, columns=("en", "km"), size=1 << 20, bad=None, **source):
    chunks = plan_chunks(DataSource(path=path, **source), ".", columns, size)
    return [r for c in chunks for t in read_chunk(c, [] if bad is None else bad) for r in t.to_pylist()]


def refused(path, columns=("en", "km"), **source):
    with pytest.raises(DataError) as caught:
        read(path, columns, **source)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        ARRAY,
        "\n\n  " + json.dumps(ROWS, indent=2),
        json.dumps({"version": 1, "tags": ["a"], "data": ROWS}),
        json.dumps({"rows": ROWS, "none": []}, indent=1) + "\n",
        "\n".join(json.dumps(r) for r in ROWS),
    ],
    ids=["array", "pretty", "object", "pretty-object", "lines"],
)
@pytest.mark.parametrize("pack", ["plain", "mark", "gz", "utf-16"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_each_layout_gives_its_objects(tmp_path, text, pack, size):
    data = text.encode("utf-16" if pack == "utf-16" else "utf-8-sig" if pack == "mark" else "utf-8")
    path = put(tmp_path, gzip.compress(data) if pack == "gz" else data, "a.json.gz" if pack == "gz" else "a.json")
    assert read(path, size=size, encoding="utf-16" if pack == "utf-16" else "utf-8") == READ


def test_a_file_of_one_object_is_one_row(tmp_path):
    assert read(put(tmp_path, '{"en": "a", "km": "ក"}\n')) == [{"en": "a", "km": "ក", LINE: 1}]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        (ARRAY[:-30], "torn"),
        ('{"data": [{"en": "a"}', "torn"),
        ('{"en": ["a"],\n "km": ["b"]}\n', "no list of objects"),
        (json.dumps({"train": ROWS, "test": ROWS}), "2 lists of objects (train, test)"),
        ("3", "no list of objects"),
        (json.dumps([{"en": "a"}]), "no column 'km'"),
        (json.dumps([{"t": {"en": "a", "km": "b"}}]), "write 't.en'"),
        (b'[{"en": "a\xff"}]', "is not UTF-8"),
        (b'[{"en": "a\0"}]', "NUL"),
        ("[" * 100_000, "torn"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, text, part):
    assert part in refused(put(tmp_path, text))


def test_rows_that_are_no_objects_are_bad_rows(tmp_path):
    path, bad = put(tmp_path, json.dumps([ROWS[0], 3, ROWS[2]])), []
    assert "line 2 (counted by objects) is int" in refused(path)
    assert [r[LINE] for r in read(path, bad_rows="drop", bad=bad)] == [1, 3]
    assert [b.line for b in bad] == [2]


def test_a_large_array_is_refused_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "MOST", 100)
    assert "JSON Lines (.jsonl)" in refused(put(tmp_path, ARRAY))
