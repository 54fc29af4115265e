import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ialign_ray.config import DataSource
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError

ROWS = [
    {"id": k, "eng": f'A "quoted", {k}', "jav": None if k == 4 else f"jålma\nkaping {k}", "kind": "ab"[k % 2]}
    for k in range(20)
]


def write(folder, suffix, rows=ROWS):
    path = folder / f"rows{suffix}"
    table = pa.Table.from_pylist(rows)
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n\n", encoding="utf-8")
    else:
        options = pa.csv.WriteOptions(delimiter="\t" if suffix == ".tsv" else ",")
        pa.csv.write_csv(table, path, options)
    return path


def fails(path, *parts, needed=(), **source):
    with pytest.raises(DataError) as caught:
        read_table(DataSource(path=path.name, **source), str(path.parent), needed)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


def quoted(path):
    """Settings for what `write` writes: TSV with quotes."""
    return {"path": str(path), **({"quote": '"'} if str(path).endswith(".tsv") else {})}


def typed(suffix, rows=ROWS):
    """What a format keeps of these rows: CSV and TSV have text alone."""
    return [r | {"id": str(r["id"])} for r in rows] if suffix in {".csv", ".tsv"} else rows


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    path = write(tmp_path, suffix)
    assert read_table(DataSource(**quoted(path) | {"path": path.name}), str(tmp_path)).to_pylist() == typed(suffix)
    assert read_table(DataSource(**quoted(path))).to_pylist() == typed(suffix)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_column_of_digits_stays_text(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text("id,eng\n007,a\n08,b\n".replace(",", "," if suffix == ".csv" else "\t"), encoding="utf-8")
    assert read_table(DataSource(path=str(path)))["id"].to_pylist() == ["007", "08"]
    assert read_table(DataSource(path=str(path), where={"id": "007"}))["eng"].to_pylist() == ["a"]


def test_where_on_text_takes_numbers_and_truths(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("n,ok\n3,true\n3.0,FALSE\n4,True\n", encoding="utf-8")
    assert read_table(DataSource(path=str(path), where={"n": 3})).num_rows == 1
    assert read_table(DataSource(path=str(path), where={"n": 3.0})).num_rows == 2
    assert read_table(DataSource(path=str(path), where={"ok": True})).num_rows == 2
    assert read_table(DataSource(path=str(path), where={"ok": [False]})).num_rows == 1


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_where_and_limit_choose_the_same_rows_in_every_format(tmp_path, suffix):
    path = write(tmp_path, suffix)
    kept = read_table(DataSource(**quoted(path), where={"kind": "a", "id": [0, 2, 4, 5]})).to_pylist()
    assert [int(r["id"]) for r in kept] == [0, 2, 4]
    first, again = (read_table(DataSource(**quoted(path), limit=7)).to_pylist() for _ in range(2))
    expected = typed(suffix)
    assert first == again
    assert len(first) == 7
    ids = [int(r["id"]) for r in first]
    assert ids == sorted(set(ids))
    assert ids != list(range(7))
    assert all(r in expected for r in first)
    other = read_table(DataSource(path=str(write(tmp_path, ".jsonl")), limit=7)).to_pylist()
    assert typed(suffix, other) == first


def test_a_limit_above_the_size_keeps_all(tmp_path):
    assert read_table(DataSource(path=str(write(tmp_path, ".csv")), limit=99)).num_rows == 20


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_a_wrong_column_lists_those_there(tmp_path, suffix):
    path = write(tmp_path, suffix)
    quote = {"quote": '"'} if suffix == ".tsv" else {}
    fails(path, "no column 'ind'", "id, eng, jav, kind", needed=["ind"], **quote)
    fails(path, "no column 'sort'", "id, eng, jav, kind", where={"sort": "a"}, **quote)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_missing_empty_and_folder(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    fails(path, "does not exist")
    path.write_bytes(b"")
    fails(path, "is empty", needed=["eng"])
    path.unlink()
    path.mkdir()
    fails(path, "is a folder")


def test_no_row_left_is_told(tmp_path):
    fails(write(tmp_path, ".csv"), "has no rows where {'kind': 'z'}", where={"kind": "z"})
    path = tmp_path / "head.csv"
    path.write_text("eng,jav\n", encoding="utf-8")
    fails(path, "has no rows")


def test_a_where_of_another_type_is_told(tmp_path):
    fails(write(tmp_path, ".parquet"), "where.id is 'three'", "int64", where={"id": "three"})


def test_an_unknown_suffix_lists_the_known(tmp_path):
    path = tmp_path / "rows.docx"
    path.write_bytes(b"x")
    fails(path, "'.docx'", ".parquet", ".jsonl", ".csv", ".tmx", "set `format`")


def test_jsonl_that_is_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"eng": "a"}\n{"eng": "b"}\n{"eng": "caf\xe9"}\n')
    fails(path, "line 3 is not UTF-8")


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", b","), (".tsv", b"\t")])
def test_delimited_text_that_is_not_utf8_names_the_line(tmp_path, suffix, mark):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"eng" + mark + b"jav\na" + mark + b"b\ncaf\xe9" + mark + b"d\n")
    fails(path, "line 3 is not UTF-8")


def test_torn_json_names_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"eng": "a"}\n\n{"eng": "b', encoding="utf-8")
    fails(path, "line 3 is not JSON")
    path.write_text('{"eng": "a"}\n[1]\n', encoding="utf-8")
    fails(path, "line 2 is list, not an object")


def test_a_torn_parquet_file_is_told(tmp_path):
    path = write(tmp_path, ".parquet")
    path.write_bytes(path.read_bytes()[:-40])
    fails(path, "malformed")


def test_a_csv_row_with_too_few_fields_is_told(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3\n", encoding="utf-8")
    fails(path, "malformed", "Expected 2 columns, got 1")


def test_json_columns_that_begin_in_a_later_row_are_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"eng": "a"}\n{"eng": "b", "jav": "c"}\n', encoding="utf-8")
    assert read_table(DataSource(path=str(path)), needed=["jav"])["jav"].to_pylist() == [None, "c"]


def test_json_values_of_two_types_are_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"eng": "a"}\n{"eng": 3}\n', encoding="utf-8")
    fails(path, "malformed")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for suffix, text in ((".jsonl", '{"eng": "a"}\n'), (".csv", "eng\na\n")):
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_table(DataSource(path=str(path)), needed=["eng"]).to_pylist() == [{"eng": "a"}]
