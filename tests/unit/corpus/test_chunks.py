"""Chunks: what is planned, for which files, and what can go wrong with these."""

import bz2
import gzip
import json
import lzma
import pickle

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.readers import plan_chunks, read_chunk, read_table
from ialign_ray.errors import DataError

ROWS = [{"eng": f"one {k}", "jav": f"siji {k}"} for k in range(50)]
TEXT = "".join(json.dumps(r) + "\n" for r in ROWS)
PACK = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".zstd": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read(source, columns=(), size=100):
    bad = []
    return [r for c in plan_chunks(source, ".", columns, size) for t in read_chunk(c, bad) for r in t.to_pylist()]


def message_of(call):
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_chunks_are_small_and_cover_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(TEXT, encoding="utf-8")
    chunks = plan_chunks(DataSource(path=str(path)), ".", [], 200)
    assert len(chunks) > 5
    assert [c.start[0] for c in chunks[1:]] == [c.end[0] for c in chunks[:-1]]
    assert (chunks[0].start, chunks[-1].end, chunks[0].line, chunks[0].file) == ((0,), (-1,), 1, 1)
    assert all(len(pickle.dumps(c)) < 3000 for c in chunks)
    rows = [r for c in chunks for t in read_chunk(pickle.loads(pickle.dumps(c)), []) for r in t.to_pylist()]
    assert rows == [r | {LINE: k} for k, r in enumerate(ROWS, start=1)]


def test_parquet_is_cut_by_row_groups_and_projected(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    chunks = plan_chunks(DataSource(path=str(path)), ".", ["jav"], 400)
    assert 1 < len(chunks) < 8
    assert read(DataSource(path=str(path)), ["jav"], 400) == [
        {"jav": r["jav"], LINE: k} for k, r in enumerate(ROWS, start=1)
    ]


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_files_are_one_chunk(tmp_path, suffix):
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(PACK[suffix](TEXT.encode()))
    assert len(plan_chunks(DataSource(path=str(path)), ".", [], 10)) == 1
    assert read(DataSource(path=str(path))) == [r | {LINE: k} for k, r in enumerate(ROWS, start=1)]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_compressed_file_cut_short_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"rows.jsonl{suffix}"
    data = PACK[suffix](TEXT.encode())
    path.write_bytes(data[: int(len(data) * kept)])
    for policy in ("refuse", "drop"):
        message = message_of(lambda policy=policy: read(DataSource(path=str(path), bad_rows=policy)))
        assert f"{path} ends in the middle of its" in message
        assert "fetch it again" in message
    path.write_bytes(b"plain text")
    assert "is not a whole" in message_of(lambda: read(DataSource(path=str(path))))


def test_a_pattern_is_sorted_and_keeps_the_number_of_the_file(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.csv").write_text(f"eng\n{name}1\n{name}2\n", encoding="utf-8")
    chunks = plan_chunks(DataSource(path="*.csv"), str(tmp_path), ["eng"])
    assert [(c.file, c.files[0][-5:]) for c in chunks] == [(1, "a.csv"), (2, "b.csv"), (3, "c.csv")]
    assert read_table(DataSource(path="*.csv"), str(tmp_path))["eng"].to_pylist() == [
        "a1",
        "a2",
        "b1",
        "b2",
        "c1",
        "c2",
    ]
    assert "matches no file" in message_of(lambda: plan_chunks(DataSource(path="*.tsv"), str(tmp_path)))


def test_a_limit_asks_for_one_chunk_over_all_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(TEXT, encoding="utf-8")
    (chunk,) = plan_chunks(DataSource(path="*.jsonl", limit=5), str(tmp_path), [], 10)
    assert len(chunk.files) == 2
    assert sum(t.num_rows for t in read_chunk(chunk, [])) == 100
    assert read_table(DataSource(path="*.jsonl", limit=5), str(tmp_path)).num_rows == 5


def test_a_missing_column_is_told_before_reading(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(TEXT, encoding="utf-8")
    assert "has no column 'min'; it has eng, jav" in message_of(
        lambda: plan_chunks(DataSource(path=str(path)), ".", ["min"])
    )
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    assert "has no column 'min'" in message_of(lambda: read(DataSource(path=str(packed)), ["min"]))


def test_a_folder_names_the_cure(tmp_path):
    (tmp_path / "data").mkdir()
    for kind in ("auto", "parquet", "csv", "jsonl", "tmx", "po"):
        message = message_of(
            lambda kind=kind: read(
                DataSource(path=str(tmp_path / "data"), format=kind),
                ["eng", "source"][:1] if kind != "po" else ["source"],
            )
        )
        assert f"{tmp_path}/data is a folder; name a file in it, or a pattern such as" in message


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(TEXT, encoding="utf-8")
    (chunk,) = plan_chunks(DataSource(path=str(path)), ".")
    path.write_text(TEXT * 2, encoding="utf-8")
    assert "changed while" in message_of(lambda: list(read_chunk(chunk, [])))


def test_bad_rows_are_dropped_and_listed_with_their_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"eng": "a"}\n{"eng": \n{"eng": "\xff"}\n\n[]\n{"eng": 3}\n{"eng": "b"}\n')
    bad = []
    chunks = plan_chunks(DataSource(path=str(path), bad_rows="drop"), ".")
    assert [r["eng"] for c in chunks for t in read_chunk(c, bad) for r in t.to_pylist()] == ["a", "b"]
    assert [(b.path, b.line) for b in bad] == [(str(path), n) for n in (2, 3, 5, 6)]


def test_remote_files_are_globbed_and_split():
    system = fsspec.filesystem("memory")
    for name in ("a", "b"):
        system.pipe(f"/ialign/{name}.jsonl", TEXT.encode())
    source = DataSource(path="memory://ialign/*.jsonl")
    chunks = plan_chunks(source, ".", ["eng"], 300)
    assert len(chunks) > 8
    assert all(f.startswith("memory://") for c in chunks for f in c.files)
    assert len(read(source, ["eng"], 300)) == 100
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer, row_group_size=10)
    system.pipe("/ialign/rows.parquet", buffer.getvalue().to_pybytes())
    assert read_table(DataSource(path="rows.parquet"), "memory://ialign").num_rows == 50
    assert "does not exist" in message_of(lambda: read(DataSource(path="memory://ialign/none.csv")))


class Closed(fsspec.AbstractFileSystem):
    """A store that wants credentials."""

    protocol = "closed"
    cachable = False

    def info(self, path, **kwargs):
        raise RuntimeError("Unable to locate credentials\nsecond line")

    def _open(self, path, *args, **kwargs):
        raise RuntimeError("Unable to locate credentials\nsecond line")


def test_a_remote_store_without_credentials_or_package_is_told():
    fsspec.register_implementation("closed", Closed, clobber=True)
    message = message_of(lambda: plan_chunks(DataSource(path="closed://bucket/rows.csv"), "."))
    assert "closed://bucket/rows.csv cannot be opened: Unable to locate credentials; set credentials" in message
    assert "cannot be opened" in message_of(lambda: plan_chunks(DataSource(path="nosuch://bucket/rows.csv"), "."))


def test_a_missing_package_names_the_extra(monkeypatch):
    def absent(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    message = message_of(lambda: plan_chunks(DataSource(path="s3://bucket/rows.parquet"), "."))
    assert "s3://bucket/rows.parquet cannot be opened: Install s3fs to access S3" in message
    assert "install ialign_ray[s3]" in message


def test_saved_and_hub_data_sets_are_cut_by_rows(tmp_path, monkeypatch):
    import datasets

    from ialign_ray.corpus.formats import columnar

    monkeypatch.setattr(columnar, "_SLICE", 20)
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "splits")
    expected = [{"jav": r["jav"], LINE: k} for k, r in enumerate(ROWS, start=1)]
    for name in ("saved", "splits"):
        assert len(plan_chunks(DataSource(path=name), str(tmp_path), ["jav"])) == 3
        assert read(DataSource(path=str(tmp_path / name)), ["jav"]) == expected
    assert "no split 'test'; it has train" in message_of(
        lambda: read(DataSource(path=str(tmp_path / "splits"), split="test"))
    )
    columnar._saved.cache_clear()
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: data)
    assert read(DataSource(hub="owner/name"), ["jav"]) == expected
    assert read_table(DataSource(hub="owner/name")).to_pylist() == ROWS
    columnar._saved.cache_clear()

    def offline(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    assert "hub data set 'owner/name' (split 'train') cannot be loaded: no route" in message_of(
        lambda: read(DataSource(hub="owner/name"))
    )
