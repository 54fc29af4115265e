import openpyxl
import pytest

from ialign_ray.config import CorpusConfig, DataSource
from ialign_ray.corpus.readers import read_table
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.errors import DataError


def write(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.create_sheet("notes").append(["not", "read"])
    book.save(path)
    return path


ROWS = [["id", "eng", "jav"], [7, "Good morning.", "Sugeng enjing."], [8, None, 'A "b"\nc'], [], [9.5, "Two, 2", 3]]


def test_cells_are_text_and_rows_keep_their_numbers(tmp_path):
    write(tmp_path / "a.xlsx", ROWS)
    assert read_table(DataSource(path="a.xlsx"), str(tmp_path)).to_pylist() == [
        {"id": "7", "eng": "Good morning.", "jav": "Sugeng enjing."},
        {"id": "8", "eng": None, "jav": 'A "b"\nc'},
        {"id": "9.5", "eng": "Two, 2", "jav": "3"},
    ]
    corpus = CorpusConfig(name="s", path="a.xlsx", columns={"eng": "eng", "jav": "jav"}, id="id")
    [chunk] = corpus_chunks(corpus, str(tmp_path))
    rows = [r for t in read_rows(corpus, chunk, []) for r in t.to_pylist()]
    assert [(r["id"], r["line"]) for r in rows] == [("s:7", 2), ("s:8", 3), ("s:9.5", 5)]
    assert read_table(DataSource(path="a.xlsx", where={"id": 7}), str(tmp_path)).num_rows == 1


@pytest.mark.parametrize(
    ("rows", "part"),
    [([], "is empty"), ([["a", "b", "a"], [1, 2, 3]], "two columns 'a'"), ([["a", "b"]], "has no rows")],
)
def test_a_sheet_without_a_proper_header_is_refused(tmp_path, rows, part):
    write(tmp_path / "a.xlsx", rows)
    with pytest.raises(DataError, match=rf"a\.xlsx.* {part}"):
        read_table(DataSource(path="a.xlsx"), str(tmp_path))


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / "a.xlsx", ROWS)
    with pytest.raises(DataError, match="no column 'sun'; it has id, eng, jav"):
        read_table(DataSource(path="a.xlsx"), str(tmp_path), ["sun"])


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_torn_or_foreign_file_is_one_sentence(tmp_path, keep):
    data = write(tmp_path / "a.xlsx", ROWS).read_bytes()
    (tmp_path / "a.xlsx").write_bytes(data[: int(len(data) * keep) if keep < 1 else keep])
    with pytest.raises(DataError, match=r"a\.xlsx is empty or malformed") as caught:
        read_table(DataSource(path="a.xlsx"), str(tmp_path))
    assert "\n" not in str(caught.value)
