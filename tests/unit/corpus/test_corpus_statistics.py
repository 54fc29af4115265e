import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ialign_ray.corpus.schema import schema
from ialign_ray.corpus.shards import ShardFile, ShardStore
from ialign_ray.corpus.statistics import StoredMeasures


@pytest.fixture
def measures(tmp_path):
    """Two pieces of other languages, in row groups of three; the second lacks the measure `b`."""
    store = ShardStore(tmp_path)
    pieces = []
    for number, (code, count) in enumerate((("jav", 10), ("sun", 7))):
        piece = ShardFile(f"{number}" * 32, 0, count)
        store.path(piece.key).mkdir(parents=True)
        rows = [{"id": f"{number}:{k}", "file": 1, "line": k, "eng": f"e{k}", code: f"{code}{k}"} for k in range(count)]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema(["eng", code])), store.file(piece), row_group_size=3)
        values = {"a": np.arange(count, dtype=np.uint64) + 100 * number} | (
            {} if number else {"b": np.arange(count, dtype=np.float32)}
        )
        pq.write_table(pa.table(values), store.file(piece, "measures"))
        pieces.append(piece)
    return StoredMeasures(store, pieces, ["eng", "jav", "sun"])


def test_columns_of_all_pieces_in_their_order(measures):
    assert measures.rows == 17
    assert measures.columns == ["a", "b"]
    assert measures.column("a").tolist() == [*range(10), *range(100, 107)]
    assert np.isnan(measures.column("b")[10:]).all()
    assert measures.column("b")[:10].tolist() == list(range(10))


@pytest.mark.parametrize("rows", [[], [0], [2, 3, 9], [9, 10], [4, 11, 16], list(range(17))])
def test_texts_by_number(measures, rows):
    table = measures.texts(np.array(rows, np.int64))
    assert table.schema == schema(["eng", "jav", "sun"])
    expected = [(f"0:{r}", f"jav{r}", None) if r < 10 else (f"1:{r - 10}", None, f"sun{r - 10}") for r in rows]
    assert [(r["id"], r["jav"], r["sun"]) for r in table.to_pylist()] == expected
